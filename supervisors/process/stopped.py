"""Who was stopped by a signal and does not run any more: alive, but nobody hears of it except `/proc`."""

from __future__ import annotations

from collections.abc import Iterable

from supervisors.process.procfs import read_stat

__all__ = ["STILL_STOPPED", "StoppedLook"]

STILL_STOPPED = 2
"""Looks that must find a process stopped before it counts: a debugger or job control may stop one for a moment."""


class StoppedLook:
    """Counts looks. Its owner looks in even steps, in one thread, and kills whom it is told of."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def look(self, pids: Iterable[int]) -> list[int]:
        """The pids of those that this look finds stopped for the `STILL_STOPPED`-th time in a row. Forgets all others."""
        counts: dict[int, int] = {}
        for pid in pids:
            stat = read_stat(pid)
            if stat is not None and stat.stopped:
                counts[pid] = self._counts.get(pid, 0) + 1
        self._counts = counts
        return [pid for pid, count in counts.items() if count == STILL_STOPPED]
