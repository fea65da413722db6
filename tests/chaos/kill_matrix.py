"""Every process of a tree, killed and stopped under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from supervisors import CallFailed, Client, Supervisor, child
from supervisors.process.procfs import read_stat
from tests.anatomy import anatomy, living_children
from tests.chaos.load import Load
from tests.servers import Probe

__all__ = ["SIGNALS", "TARGETS", "TREE", "Outcome", "strike"]

TREE = Supervisor(
    "app",
    (Supervisor("inner", (child(Probe, name="probe"), child(Probe, id="other")), max_restarts=1000),),
    max_restarts=1000,
)
TARGETS = ("node", "admin", "logger", "root", "registry", "supervisor", "inner supervisor", "server")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


@dataclass
class Outcome:
    """What one strike did: seconds until the tree was whole, and until the next right answer."""

    whole: float
    answering: float


async def _pid(client: Client, target: str) -> int:
    who = await anatomy(client)
    match target:
        case "node" | "admin" | "logger" | "root":
            return int(getattr(who, target))
        case "registry":
            return who.pid("registry")
        case "supervisor":
            return who.pid("app")
        case "inner supervisor":
            return who.pid("app/inner")
        case _:
            return who.pid("app/inner/probe")


async def strike(client: Client, load: Load, target: str, number: signal.Signals, bound: float) -> Outcome:
    """Signal one process, then wait until it is gone, the tree is whole and calls are answered again."""
    pid = await _pid(client, target)
    start = time.monotonic()
    os.kill(pid, number)
    while time.monotonic() - start < bound + 5.0:
        stat = read_stat(pid)
        if (stat is None or stat.dead) and await _whole(client):
            break
        await asyncio.sleep(0.01)
    whole = time.monotonic() - start
    await asyncio.wait_for(load.next_answer(), bound + 5.0)
    return Outcome(whole, time.monotonic() - start)


async def _whole(client: Client) -> bool:
    """Whether every process of the tree is there and runs, admin and logger too. Does not wait for what is not."""
    try:
        tree = await client.tree(timeout=0.5)
    except CallFailed:
        return False
    root = read_stat(tree.pid)
    branches = list(tree.walk())
    return (
        root is not None
        and len(living_children(root.parent)) == 2
        and len(branches) == 6
        and all(each.state == "running" and not each.problem for each in branches)
    )
