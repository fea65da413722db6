"""Actors of stock Thespian. Imported by the driver and by Thespian's own processes, which find classes by module name."""

from __future__ import annotations

import os
import time
from typing import Any

from thespian.actors import Actor, ActorAddress, ChildActorExited

__all__ = ["Child", "Echo", "Parent"]


class Echo(Actor):
    """Sends each dict back."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:  # noqa: N802 - Thespian's name
        if isinstance(message, dict):
            self.send(sender, message)


class Child(Actor):
    """Says its pid."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:  # noqa: N802 - Thespian's name
        if message == "pid":
            self.send(sender, ("pid", os.getpid()))


class Parent(Actor):
    """A bare parent that makes its child anew: as little as stock Thespian needs to heal.

    `("not", pid)` is answered with `(pid, time)` as soon as a child with another pid has answered its parent; the time is
    that of the answer, in seconds of `time.monotonic()`.
    """

    _answered: tuple[int, float] | None = None
    _asked: tuple[int, ActorAddress] | None = None

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:  # noqa: N802 - Thespian's name
        if message == "start" or isinstance(message, ChildActorExited):
            self.send(self.createActor(Child), "pid")
        elif isinstance(message, tuple) and message[0] == "pid":
            self._answered = (message[1], time.monotonic())
            self._tell()
        elif isinstance(message, tuple) and message[0] == "not":
            self._asked = (message[1], sender)
            self._tell()

    def _tell(self) -> None:
        if self._asked is not None and self._answered is not None and self._asked[0] != self._answered[0]:
            self.send(self._asked[1], self._answered)
            self._asked = None
