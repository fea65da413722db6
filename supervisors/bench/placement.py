"""Who runs on which core while something is measured: the same for ours and for its peer.

Left alone, the scheduler puts the two ends of a conversation on one core or on two, by luck, and that alone changes the
duration of a call several times over. So the bench's thread stays on one core and whoever answers on another, where there
are two. The affinity of what runs already is set thread by thread, as the kernel has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Placement", "placement"]


class Placement:
    """The two cores of a bench; the same one twice where there is only one."""

    def __init__(self, cores: set[int]) -> None:
        ordered = sorted(cores)
        self.bench, self.peer = ordered[0], ordered[-1]

    def put(self, pid: int) -> None:
        """Whoever answers: every thread of that process, on the peers' core."""
        for entry in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with suppress(OSError):  # a thread that has just ended
                os.sched_setaffinity(int(entry), {self.peer})


@contextmanager
def placement() -> Iterator[Placement]:
    """This thread stays on the bench's core while the block runs."""
    before = os.sched_getaffinity(0)
    chosen = Placement(before)
    os.sched_setaffinity(0, {chosen.bench})
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)
