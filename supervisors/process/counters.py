"""Counters that all processes of a node share, and that no ``kill -9`` can tear or lock.

Each counter is one ``eventfd``: adding to it is a single ``write`` of eight bytes, which the kernel performs
atomically, and its value belongs to the kernel, so a process that dies in the middle of anything leaves it
whole. A ``read`` would reset it; the value is taken from ``/proc/self/fdinfo``, which resets nothing.

They are made once, by the node, before it forks; every later process of the tree has them by inheritance, at
the same descriptor numbers. Code that closes inherited descriptors after a fork spares `SharedCounters.fds`.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

_COUNT = "eventfd-count:"


class SharedCounters:
    """A fixed set of named counters, shared by inheritance through ``fork``.

    Any thread of any process that inherited them may call `add` and `snapshot`; neither blocks nor takes a lock,
    so `add` is also safe in a signal handler. Made in the node process. ValueError when a name occurs twice.
    """

    def __init__(self, names: Iterable[str]) -> None:
        fds: dict[str, int] = {}
        try:
            for name in map(str, names):
                if name in fds:
                    raise ValueError(f"counter {name!r} is named twice")
                fds[name] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise
        self._fds = fds

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order given."""
        return tuple(self._fds)

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors to leave open after a fork."""
        return tuple(self._fds.values())

    def add(self, name: str, amount: int = 1) -> None:
        """Add `amount` (at least 0) to a counter; KeyError for a name that is not one of `names`."""
        os.eventfd_write(self._fds[name], amount)

    def snapshot(self) -> MappingProxyType[str, int]:
        """All values now, each exact by itself; nothing is reset."""
        return MappingProxyType({name: _value(fd) for name, fd in self._fds.items()})

    def close(self) -> None:
        """Close the descriptors of this process; those of other processes stay. Calling it again does nothing."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def _value(fd: int) -> int:
    with Path(f"/proc/self/fdinfo/{fd}").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith(_COUNT):
                return int(line.removeprefix(_COUNT), 16)
    raise OSError(f"descriptor {fd} is not a counter any more")
