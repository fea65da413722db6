"""Hostile bytes on every listening socket of a node: nothing is executed, nothing dies, everything still answers."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import psutil
import pytest

from supervisors import Supervisor, child
from tests.chaos.hostile import crafted, listening, marker_of, noise, throw
from tests.conftest import Running, processes_of
from tests.servers import Probe

TREE = Supervisor("app", (child(Probe, name="probe"), Supervisor("inner", (child(Probe, id="other"),))))
ROUNDS = int(os.environ.get("N", "20"))


async def _bombard(running: Running, runtime: Path, tmp_path: Path, rounds: int) -> None:
    marker = marker_of(tmp_path)
    chance = random.Random(7)
    stream = noise(chance)
    async with running(TREE) as client:
        probe = client.ref("probe")
        pids = processes_of(runtime)
        before = {each.place: each.pid for each in (await client.tree()).walk()}
        addresses = listening(pids)
        assert len([each for each in addresses if isinstance(each, str)]) == 6
        assert {each[0] for each in addresses if not isinstance(each, str)} == {"127.0.0.1"}
        memory = sum(psutil.Process(pid).memory_info().rss for pid in pids)
        for _ in range(rounds):
            for address in addresses:
                await asyncio.gather(
                    *(throw(address, data) for data in [*crafted(str(marker)), *(next(stream) for _ in range(10))])
                )
            assert await probe.call(("echo", "still here")) == "still here"
        tree = await client.tree()
        assert {each.place: each.pid for each in tree.walk()} == before
        assert tree.counters["magic"] > 0, "pickles on the control plane's ports are counted"
        assert (await probe.statistics()).links.garbled > 0
        assert not marker.exists()
        grown = sum(psutil.Process(pid).memory_info().rss for pid in pids) - memory
        assert grown < 64 << 20, f"{grown >> 20} MB more"


@pytest.mark.timeout(120)
async def test_hostile_bytes_on_every_socket(running: Running, runtime: Path, tmp_path: Path) -> None:
    """Pickles, bombs, lies and noise on each TCP port and each Unix socket: same processes, same answers, no file made."""
    await _bombard(running, runtime, tmp_path, 2)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_hostile_bytes_for_long(running: Running, runtime: Path, tmp_path: Path) -> None:
    """The same, again and again."""
    await _bombard(running, runtime, tmp_path, ROUNDS)
