"""Benchmarks that a user can run: what is ours and what it is compared with, measured in turns, in one run.

    report      the form that every bench prints: rows with goals, a table for people, one JSON object for programs
    host        the machine that it ran on
    measure     rounds that alternate, latencies and rates
    placement   who runs on which core meanwhile
    actors      what a call costs and what an idle server weighs
    recovery    how long nobody answers after a SIGKILL
    subject     the servers that are measured
    echo        the peer of the links: a bare echo, with nothing but uvloop and msgpack
    stock/      the peer of the tree: Thespian as it is published

`dspex bench` is the way in. What a bench starts is gone when it returns, fails or is interrupted.
"""

from supervisors.bench.measure import BenchFailed, Effort
from supervisors.bench.report import Goal, Report, Row, Unit

__all__ = ["BenchFailed", "Effort", "Goal", "Report", "Row", "Unit"]
