"""What may end a node from outside: a signal, or the end of its owner. Both wake up whoever polls its descriptors."""

from __future__ import annotations

import logging
import os
import select
import signal
from contextlib import suppress
from typing import Any

from supervisors.errors import NodeError

__all__ = ["Lookout"]

log = logging.getLogger("supervisors.node")


class Lookout:
    """Made once, by the node, in its only thread. `owner` is the pid of the host that started this node, or None."""

    def __init__(self, owner: int | None) -> None:
        self.signals = 0
        """how many signals that mean "stop" have come"""
        self._owner = -1 if owner is None else _watch(owner)
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only for the wake-up

    @property
    def descriptors(self) -> frozenset[int]:
        """Readable when there is something to look at."""
        return frozenset({self._wakeup[0], self._owner} - {-1})

    def drain(self) -> None:
        """Called after each wake-up."""
        with suppress(BlockingIOError):
            os.read(self._wakeup[0], 4096)

    def why_stop(self) -> str | None:
        """Why the node is to stop, or None."""
        if self.owner_gone():
            return "the owner is gone"
        return "a signal" if self.signals else None

    def owner_gone(self) -> bool:
        """Whether the host that started this node has ended."""
        if self._owner < 0:
            return False
        poll = select.poll()
        poll.register(self._owner, select.POLLIN)
        return bool(poll.poll(0))

    def _on_signal(self, number: int, _frame: Any) -> None:
        log.info("signal %s: stopping", signal.Signals(number).name)
        self.signals += 1


def _watch(owner: int) -> int:
    """A pidfd of the owner. It is this process's parent, so one that is no more has ended, whoever has its pid by now."""
    try:
        descriptor = os.pidfd_open(owner)
    except OSError:
        descriptor = -1
    if descriptor < 0 or os.getppid() != owner:
        raise NodeError(f"the process {owner} that owns this node is gone already")
    return descriptor
