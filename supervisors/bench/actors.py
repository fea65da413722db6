"""`dspex bench actors`: what a call costs, against stock Thespian and against a bare echo, and what an idle server weighs.

Run in an event loop of the bench's own (uvloop, as the servers'); called by the command line.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil

from supervisors.bench import host
from supervisors.bench.echo import bare_echo
from supervisors.bench.measure import Effort, Tell, in_turns, p50, rate
from supervisors.bench.placement import placement
from supervisors.bench.report import Goal, Report, Row, Unit
from supervisors.bench.stock.peer import stock_thespian
from supervisors.bench.subject import MESSAGE, Echo, Idle
from supervisors.client import embed
from supervisors.spec import Supervisor, child

__all__ = ["OUTSTANDING", "run"]

OUTSTANDING = 16
_MB = 1e6
_STOCK = "stock Thespian"
_BARE = "bare uvloop echo"


async def run(effort: Effort, tell: Tell) -> Report:
    """Measure, in turns. Whatever it starts is gone when it returns. Raises `BenchFailed` when a peer does not start."""
    machine = host.describe()
    tree = Supervisor("bench", (child(Echo, name="echo"), child(Idle, name="idle")))
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as name:
        directory = Path(name)
        async with (
            embed(tree, log=directory / "node.log") as client,
            bare_echo() as bare,
            stock_thespian(directory, tell) as stock,
        ):
            ours = client.ref("echo")
            idle = psutil.Process((await client.ref("idle").address()).pid).memory_full_info().uss
            with placement() as cores:
                cores.put(await ours.call("pid"))
                cores.put(bare.pid)
                one = await in_turns(
                    {
                        "ours": lambda: p50(ours.call, MESSAGE, effort),
                        "bare": lambda: p50(bare.call, MESSAGE, effort),
                        "stock": lambda: stock.p50(effort),
                    },
                    effort.rounds,
                    tell,
                    "one call after the other",
                )
                many = await in_turns(
                    {
                        "ours": lambda: rate(ours.call, MESSAGE, effort, OUTSTANDING),
                        "bare": lambda: rate(bare.call, MESSAGE, effort, OUTSTANDING),
                        "stock": lambda: stock.rate(effort, OUTSTANDING),
                    },
                    effort.rounds,
                    tell,
                    f"{OUTSTANDING} callers",
                )
    seconds, per_second = Unit.SECONDS, Unit.PER_SECOND
    return Report(
        "actors",
        machine,
        (
            Row("call p50, 1 outstanding", seconds, one["ours"], Goal(ratio=4), one["stock"], f"{_STOCK}, ask"),
            Row("call p50 over bare echo", seconds, one["ours"], Goal(ratio=1 / 1.6), one["bare"], _BARE),
            Row(f"calls/s, {OUTSTANDING} outstanding", per_second, many["ours"], Goal(ratio=40), many["stock"], _STOCK),
            Row(
                f"calls/s over bare echo, {OUTSTANDING} outstanding",
                per_second,
                many["ours"],
                Goal(ratio=0.6),
                many["bare"],
                _BARE,
            ),
            Row("idle server, USS", Unit.BYTES, float(idle), Goal(at_most=8 * _MB)),
        ),
    )
