"""Processes of a node killed and stopped at random moments of its boot and of its restarts."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from supervisors import StartFailed, Supervisor, child
from tests.anatomy import answered, until
from tests.conftest import Running, processes_of
from tests.servers import Counter, Probe

TIMES = int(os.environ.get("N", "100"))
TREE = Supervisor(
    "app",
    (child(Probe, name="probe"), Supervisor("inner", (child(Counter), child(Counter, id="b")), max_restarts=1000)),
    max_restarts=1000,
)
BOUND = 12.0
"""Seconds to the end of each round: two stops must be seen, one after the other, and the node itself may be one of the two."""


async def _strike(runtime: Path, chance: random.Random) -> None:
    """Two accidents to anybody, at random moments of the tenth of a second after the node's first fork."""
    await until(lambda: len(processes_of(runtime)) > 1, 2.0)
    for _ in range(2):
        await asyncio.sleep(chance.uniform(0.0, 0.1))
        pids = processes_of(runtime)
        if pids:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), chance.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV]))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_accidents_while_it_boots(running: Running, runtime: Path) -> None:
    """Each time the tree comes up all the same, or `embed` says why it does not; it ends, and nothing is left."""
    failed, slowest = 0, 0.0
    for seed in range(TIMES):
        chance = random.Random(seed)
        striking = asyncio.create_task(_strike(runtime, chance))
        start = time.monotonic()
        try:
            async with asyncio.timeout(BOUND), running(TREE) as client:
                await striking
                await answered(client)
        except StartFailed as error:
            failed += 1
            print(f"round {seed}: {error}")
            await striking
        except TimeoutError:
            pytest.fail(f"round {seed} did not end within {BOUND} s")
        slowest = max(slowest, time.monotonic() - start)
        assert not processes_of(runtime), f"round {seed}"
        assert not list(runtime.iterdir()), f"round {seed}"
    print(f"{TIMES} rounds, {failed} did not start, the slowest took {slowest:.2f} s")
