"""`dspex bench recovery`: how long nobody answers after a SIGKILL, of one server and of the whole tree.

Run in an event loop of the bench's own; called by the command line. The clock starts with the signal and stops with the
first answer of another process than the killed one, whatever lies between: errors of calls under way, look-ups, connecting.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

from supervisors.bench import host
from supervisors.bench.measure import BenchFailed, Effort, Tell, in_turns
from supervisors.bench.report import Goal, Report, Row, Unit
from supervisors.bench.stock.peer import stock_thespian
from supervisors.bench.subject import Echo
from supervisors.client import Client, embed
from supervisors.errors import CallFailed
from supervisors.process.procfs import children_of
from supervisors.ref import Ref
from supervisors.spec import Supervisor, child

__all__ = ["run"]

_PATIENCE = 10.0
_TREES_PER_NODE = 4  # a node gives up when its tree breaks oftener than five times in half a minute


async def run(effort: Effort, tell: Tell) -> Report:
    """Measure, in turns. Whatever it starts is gone when it returns. Raises `BenchFailed`."""
    machine = host.describe()
    tree = Supervisor("bench", (child(Echo, name="echo"),), max_restarts=1_000_000)
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as name:
        directory = Path(name)
        async with stock_thespian(directory, tell) as stock:
            async with embed(tree, log=directory / "node.log", log_level="error") as client:
                ours = client.ref("echo")
                server = await in_turns(
                    {"ours": lambda: _after_kill(ours), "stock": stock.recovery}, effort.rounds, tell, "one server killed"
                )
            # A node boots its tree again so often and no oftener; so each few rounds get a node of their own.
            whole: list[float] = []
            while len(whole) < effort.rounds:
                async with embed(tree, log=directory / "node.log", log_level="error") as client:
                    for _ in range(min(_TREES_PER_NODE, effort.rounds - len(whole))):
                        tell(f"the whole tree killed: round {len(whole) + 1} of {effort.rounds}")
                        whole.append(await _after_tree_kill(client))
    whole.sort()
    return Report(
        "recovery",
        machine,
        (
            Row(
                "kill -9 to answering",
                Unit.SECONDS,
                server["ours"],
                Goal(ratio=1 / 3, below=0.05),
                server["stock"],
                "stock Thespian, bare parent",
            ),
            Row("whole tree killed to answering", Unit.SECONDS, whole[len(whole) // 2], Goal(at_most=0.5)),
        ),
    )


async def _after_kill(ours: Ref) -> float:
    old = await ours.call("pid")
    start = time.monotonic()
    os.kill(old, signal.SIGKILL)
    return await _until_another(ours, old, start)


async def _after_tree_kill(client: Client) -> float:
    ours = client.ref("echo")
    old = await ours.call("pid")
    if client.node_pid is None:
        raise BenchFailed("the node is gone")
    [admin] = children_of(client.node_pid)
    start = time.monotonic()
    os.kill(admin, signal.SIGKILL)
    return await _until_another(ours, old, start)


async def _until_another(ours: Ref, old: int, start: float) -> float:
    while time.monotonic() - start < _PATIENCE:
        try:
            pid = await ours.call("pid", timeout=_PATIENCE)
        except CallFailed:
            continue
        if pid != old:
            return time.monotonic() - start
    raise BenchFailed(f"nobody answered within {_PATIENCE:g} s")
