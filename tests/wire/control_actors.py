"""Actors and messages that the tests of the control plane create in other processes."""

import os
from dataclasses import dataclass
from typing import Any

from thespian.actors import Actor, ActorExitRequest, ActorSystemMessage, ChildActorExited

from supervisors.wire.control_codec import allow_message


@allow_message
@dataclass
class Told:
    """Counted, not answered."""

    text: str = ""

    formatted = 0

    def __str__(self) -> str:
        type(self).formatted += 1
        return "Told"


class Counting(Actor):
    """Echoes what it is asked and counts what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        match message:
            case Told(text):
                self.told.append(text)
            case "told":
                self.send(sender, list(self.told))
            case "formatted":
                self.send(sender, Told.formatted)
            case "pid":
                self.send(sender, os.getpid())
            case _ if not isinstance(message, ActorSystemMessage):
                self.send(sender, message)


class Unlisted(Counting):
    """Its creation by request is refused."""


class Parent(Actor):
    """Creates children of its own and notices their end."""

    def __init__(self) -> None:
        super().__init__()
        self.asker: Any = None
        self.child: Any = None

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        match message:
            case "create":
                self.asker = sender
                self.child = self.createActor(Counting)
                self.send(self.child, "pid")
            case int():
                self.send(self.asker, message)
            case ChildActorExited():
                self.send(self.asker, "exited")
            case ActorExitRequest():
                pass
