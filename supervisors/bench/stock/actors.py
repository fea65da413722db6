"""Actors of stock Thespian. Imported by the driver and by Thespian's own processes, which find classes by module name."""

from __future__ import annotations

import os
import time
from typing import Any

from thespian.actors import Actor, ActorAddress, ChildActorExited

__all__ = ["Child", "Echo", "Parent", "Sender"]


class Echo(Actor):
    """Sends each dict back."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:  # noqa: N802 - Thespian's name
        if isinstance(message, dict):
            self.send(sender, message)


class Sender(Actor):
    """Keeps a number of messages under way to another actor, and tells how many came back in which time.

    It gets `("measure", target, message, outstanding, calls, seconds)` and answers `(answers, seconds)`.
    """

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:  # noqa: N802 - Thespian's name
        if isinstance(message, tuple) and message[0] == "measure":
            self._asker = sender
            _, self._target, self._message, outstanding, self._calls, self._seconds = message
            self._sent = self._answered = 0
            self._began = time.perf_counter()
            for _ in range(outstanding):
                self._send_one()
        elif isinstance(message, dict):
            self._answered += 1
            elapsed = time.perf_counter() - self._began
            if self._sent < self._calls if self._calls is not None else elapsed < self._seconds:
                self._send_one()
            elif self._answered == self._sent:
                self.send(self._asker, (self._answered, elapsed))

    def _send_one(self) -> None:
        self._sent += 1
        self.send(self._target, self._message)


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
