"""The tree of most tests here, and a question to it."""

from __future__ import annotations

from supervisors import Client, Supervisor, child
from tests.actors.servers import Inside

__all__ = ["app", "reason_of"]


def app(*children: object, **options: int) -> Supervisor:
    """A supervisor that bears a lot."""
    return Supervisor("app", children or (child(Inside, name="probe"),), **{"max_restarts": 100, **options})  # type: ignore[arg-type]


async def reason_of(client: Client, place: str) -> str:
    """How the last incarnation at that place of the tree ended."""
    return (await client.tree()).find(place).reason
