"""Calls over a link that drops, delays, doubles and garbles frames: no wrong answer, none without an end, nothing done twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from typing import Any

import pytest

from supervisors import CallFailed, Server
from supervisors.testing import Faults, Host, faulty

FAULTS = Faults(drop=0.01, delay=0.01, double=0.01, garble=0.01, flip=0.01)
TIMEOUT = 0.3
SLACK = 1.0


class Ledger(Server):
    """Keeps how often each number was executed."""

    def __init__(self) -> None:
        self.executed: Tally[int] = Tally()

    async def handle_call(self, message: Any) -> Any:
        self.executed[message["number"]] += 1
        return message


async def _through_faults(calls: int, seed: int) -> None:
    async with Host() as host:
        ledger = Ledger()
        hosted = await host.start(ledger)
        answered = wrong = endless = 0
        failed: Tally[str] = Tally()
        numbers = iter(range(calls))
        async with faulty(hosted.ref, FAULTS, seed=seed) as route:

            async def caller() -> None:
                nonlocal answered, wrong, endless
                for number in numbers:
                    start = time.monotonic()
                    message = {"number": number, "text": "x" * (number % 50)}
                    try:
                        answer = await route.ref.call(message, timeout=TIMEOUT)
                    except CallFailed as error:
                        failed[type(error).__name__] += 1
                    else:
                        answered += answer == message
                        wrong += answer != message
                    endless += time.monotonic() - start > TIMEOUT + SLACK

            await asyncio.gather(*(caller() for _ in range(32)))
            tally = dict(route.tally)
        assert (wrong, endless) == (0, 0)
        assert answered + sum(failed.values()) == calls
        assert max(ledger.executed.values()) == 1, "something was executed twice"
        assert answered > 0.9 * calls, failed
        assert all(tally.get(name, 0) > 0 for name in ("drop", "delay", "double", "garble", "flip")), tally
        counters = (await hosted.ref.statistics()).links
        assert counters.garbled > 0
        assert counters.double > 0
        assert await hosted.ref.call({"number": -1}) == {"number": -1}


@pytest.mark.timeout(60)
async def test_two_thousand_calls_over_a_faulty_link() -> None:
    """1 % of each fault in both directions: each call ends with its own answer or a typed error, and is executed at most once."""
    await _through_faults(2_000, seed=1)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_a_hundred_thousand_calls_over_a_faulty_link() -> None:
    """The same, a hundred thousand times."""
    await _through_faults(100_000, seed=2)
