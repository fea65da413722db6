"""What a supervisor hands to the child it forks. It travels in memory, through the fork: no message, no parsing, no copy.

The supervisor fills the record in, forks, and clears it; the child takes it in its first lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisors.errors import NodeError
from supervisors.process.cgroup import ControlGroup
from supervisors.spec import ChildSpec, Supervisor

__all__ = ["BirthRecord", "Surroundings", "hand_over", "take"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all processes of one tree share. Made by the node, once for each boot of the tree."""

    directory: Path
    """where the sockets are, mode 0700"""
    token: str
    """the run token, see `process.identity`"""
    allowed: frozenset[str]
    """the modules whose classes may become servers"""
    kept: frozenset[int]
    """descriptors that every process keeps: standard streams, the log and the shared counters"""
    cgroup: ControlGroup | None = None
    """what holds together the processes that servers start, where there can be one"""


@dataclass(frozen=True, slots=True)
class BirthRecord:
    """One child, about to be born."""

    surroundings: Surroundings
    spec: ChildSpec | Supervisor
    place: str
    incarnation: int
    door: str
    """its supervisor's socket; empty for the root"""
    report: int
    """the child's end of its report pipe"""


class _Slot:
    record: BirthRecord | None = None


@contextmanager
def hand_over(record: BirthRecord) -> Iterator[None]:
    """The record stands ready for a child forked inside this block. Called in a process with one thread."""
    _Slot.record = record
    try:
        yield
    finally:
        _Slot.record = None


def take() -> BirthRecord:
    """The record of this process. Called once, in an actor's first lines."""
    record, _Slot.record = _Slot.record, None
    if record is None:
        problem = "this actor was not started by a supervisor of this tree"
        raise NodeError(problem)
    return record
