"""Trees for nodes that are started from a command line; TEST_JOURNAL is where their servers note what happens to them."""

from __future__ import annotations

import os
from typing import Any

from supervisors import Server, Supervisor, child
from tests.servers import Probe

__all__ = ["CRASHES", "NO_TREE", "SLOW", "TREE", "Crashes", "Slow"]

_JOURNAL = os.environ.get("TEST_JOURNAL")


class Crashes(Server):
    """Starts, and crashes at once."""

    async def init(self) -> None:
        self.post("now")

    async def handle_info(self, message: Any) -> None:
        raise RuntimeError("boom")


class Slow(Probe):
    """Takes for ever to stop."""

    async def terminate(self, reason: Any) -> None:
        await super().terminate(reason)
        await self.ref("nobody").monitor()
        while True:
            await self.handle_call(("sleep", 100.0))


TREE = Supervisor("app", (child(Probe, name="probe", args=(_JOURNAL,)),), max_restarts=100)
CRASHES = Supervisor("app", (child(Crashes),))
SLOW = Supervisor("app", (child(Slow, name="probe", args=(_JOURNAL,), shutdown=60.0),))
NO_TREE = 3
