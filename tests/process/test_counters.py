"""Counters that all processes of a node share."""

import os
import signal

import pytest

from supervisors.process.counters import SharedCounters

pytestmark = pytest.mark.timeout(20)


def test_a_new_counter_is_zero_and_adds_up() -> None:
    """What is added is what is read, and reading resets nothing."""
    counters = SharedCounters(["stale", "mac"])
    counters.add("mac")
    counters.add("mac", 41)
    assert counters.snapshot() == {"stale": 0, "mac": 42}
    assert counters.snapshot() == {"stale": 0, "mac": 42}
    assert counters.names == ("stale", "mac")
    counters.close()


def test_names_are_a_closed_set() -> None:
    """A name given twice, or one that was never given, is an error."""
    with pytest.raises(ValueError, match="'mac' is named twice"):
        SharedCounters(["mac", "mac"])
    counters = SharedCounters(["mac"])
    with pytest.raises(KeyError):
        counters.add("mca")
    counters.close()


def test_what_a_killed_process_has_added_stays() -> None:
    """Processes that add at once lose nothing to each other, nor to a kill -9 in the middle of it."""
    counters = SharedCounters(["done", "running"])
    pids = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            for _ in range(1000):
                counters.add("done")
            while True:
                counters.add("running")
        pids.append(pid)
    while counters.snapshot()["done"] < 4000 or counters.snapshot()["running"] < 1000:
        pass
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    running = counters.snapshot()["running"]
    counters.add("running")
    assert counters.snapshot() == {"done": 4000, "running": running + 1}
    counters.close()


def test_descriptors_are_named_and_closed() -> None:
    """`fds` are the descriptors to spare after a fork; closing twice is harmless, and nothing stays open."""
    counters = SharedCounters(["one", "two"])
    fds = counters.fds
    assert len(fds) == 2
    assert not any(os.get_inheritable(fd) for fd in fds)
    counters.close()
    counters.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
