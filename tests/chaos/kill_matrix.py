"""Every process of a tree, killed and stopped under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from supervisors import CallFailed, Client, Supervisor, child
from supervisors.process.procfs import children_of, read_stat
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
    assert client.node_pid is not None
    if target == "node":
        return client.node_pid
    [admin] = children_of(client.node_pid)
    tree = await client.tree()
    match target:
        case "admin":
            return admin
        case "logger":
            [logger] = [pid for pid in children_of(admin) if pid != tree.pid]
            return logger
        case "root":
            return tree.pid
        case "registry":
            return tree.find("local/registry").pid
        case "supervisor":
            return tree.find("local/app").pid
        case "inner supervisor":
            return tree.find("local/app/inner").pid
        case _:
            return tree.find("local/app/inner/probe").pid


async def strike(client: Client, load: Load, target: str, number: signal.Signals, bound: float) -> Outcome:
    """Signal one process, then wait until it is gone, the tree is whole and calls are answered again."""
    pid = await _pid(client, target)
    start = time.monotonic()
    os.kill(pid, number)
    while time.monotonic() - start < bound + 5.0:
        stat = read_stat(pid)
        if (stat is None or stat.dead) and await _whole(client, target):
            break
        await asyncio.sleep(0.01)
    whole = time.monotonic() - start
    await asyncio.wait_for(load.next_answer(), bound + 5.0)
    return Outcome(whole, time.monotonic() - start)


async def _whole(client: Client, target: str) -> bool:
    """Whether every process of the tree is there and runs."""
    try:
        tree = await client.tree(timeout=0.5)
    except CallFailed:
        return False
    if target == "logger":
        assert client.node_pid is not None
        [admin] = children_of(client.node_pid)
        return len(children_of(admin)) == 2
    return len(list(tree.walk())) == 6 and all(each.state == "running" and not each.problem for each in tree.walk())
