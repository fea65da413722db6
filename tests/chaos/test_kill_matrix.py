"""SIGKILL and SIGSTOP of every process of a tree, under 200 calls per second. N times each with `make chaos N=20`."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.kill_matrix import SIGNALS, TARGETS, TREE, strike
from tests.chaos.load import Load
from tests.conftest import Running

TIMES = int(os.environ.get("N", "5"))
WHOLE_WITHIN = 2.0
"""Seconds, as the issue of the floor's successor has it; a stop must first be seen, which takes up to a second."""


async def _strikes(running: Running, target: str, number: signal.Signals, times: int) -> None:
    async with running(TREE) as client:
        async with Load(client.ref("probe")) as load:
            await load.next_answer()
            for _ in range(times):
                outcome = await strike(client, load, target, number, WHOLE_WITHIN)
                print(f"{target:17} {number.name:8} whole {outcome.whole:.3f} s, answering {outcome.answering:.3f} s")
                assert outcome.whole < WHOLE_WITHIN
        assert (load.wrong, load.endless) == (0, 0), f"refused: {load.refused}, longest {load.longest:.3f} s"
        assert load.answered > 0


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("target", TARGETS)
async def test_each_process_killed_and_stopped_many_times(running: Running, target: str, number: signal.Signals) -> None:
    """Tree whole again within its bound, each call answered or refused by its deadline, none wrong, nothing left."""
    # An embedded node is booted again three times in half a minute at the most, a tree five times.
    times = min(TIMES, 3) if target == "node" else min(TIMES, 4) if target in ("admin", "root", "supervisor") else TIMES
    for _ in range(-(-TIMES // times)):
        await _strikes(running, target, number, times)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("target", TARGETS)
async def test_each_process_killed_and_stopped_once(running: Running, target: str, number: signal.Signals) -> None:
    """The short form of the matrix: one strike each."""
    await _strikes(running, target, number, 1)
