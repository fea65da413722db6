"""The messages of ours that travel by Thespian: birth and death, nothing else. Both are on the wire's allow-list."""

from __future__ import annotations

from supervisors.wire.control_codec import allow_message

__all__ = ["Begin", "StopActor"]


@allow_message
class Begin:
    """To a supervisor actor, once, after its birth: start your children."""

    def __str__(self) -> str:  # Thespian formats each message several times per send
        return "Begin"


@allow_message
class StopActor:
    """To an actor, from its supervisor: stop in order. `detail` says why, for the exit reason."""

    def __init__(self, detail: str) -> None:
        self.detail = detail

    def __str__(self) -> str:
        return "StopActor"
