"""The servers that the benches put into their trees. Imported by the node."""

from __future__ import annotations

import os
from typing import Any

from supervisors.server import Server

__all__ = ["MESSAGE", "Echo", "Idle"]

MESSAGE: dict[str, Any] = {
    "id": 4711,
    "program": "question -> answer",
    "question": "Which of the moons of Jupiter is the largest, and who saw it first?",
    "model": "small",
    "temperature": 0.7,
    "tags": ["astronomy", "history", "bench"],
    "scores": [0.25, 0.5, 0.125],
}
"""The small message of all benches: about 200 bytes of msgpack."""


class Echo(Server):
    """Answers each call with its message, and says which process it is."""

    async def handle_call(self, message: Any) -> Any:
        return os.getpid() if message == "pid" else message


class Idle(Server):
    """Is there."""
