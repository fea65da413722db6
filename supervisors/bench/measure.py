"""How benches measure: in rounds, in each of which everybody has one turn, in an order that alternates.

So what the machine does besides falls on all alike. Used in the bench's event loop.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisors.errors import SupervisorsError

__all__ = ["BenchFailed", "Call", "Effort", "Tell", "in_turns", "p50", "rate"]

Call = Callable[[Any], Awaitable[Any]]
Tell = Callable[[str], None]
"""Called with a sentence for whoever waits."""

_WARM_UP = 100


class BenchFailed(SupervisorsError):
    """Raised when something could not be measured: a peer did not start, or an answer was wrong."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: so many rounds, and in each turn so many seconds, or so many calls if that is given."""

    rounds: int = 7
    seconds: float = 0.4
    calls: int | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds are at least 1, not {self.rounds}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds are more than 0, not {self.seconds}")
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"calls are at least 1, not {self.calls}")

    def goes_on(self, calls: int, seconds: float) -> bool:
        """Whether a turn that has made that many calls in that time makes another."""
        return calls < self.calls if self.calls is not None else seconds < self.seconds


async def in_turns(turns: Mapping[str, Callable[[], Awaitable[float]]], rounds: int, tell: Tell, what: str) -> dict[str, float]:
    """Give everybody one turn a round, the order reversed in every other one. Returns the median of each one's turns."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(rounds):
        tell(f"{what}: round {number + 1} of {rounds}")
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(await turns[name]())
    return {name: statistics.median(values) for name, values in found.items()}


async def p50(call: Call, message: Any, effort: Effort) -> float:
    """The median duration of one call, in seconds, when there is never more than one."""
    clock = time.perf_counter
    for _ in range(_WARM_UP if effort.calls is None else 1):
        await call(message)
    durations: list[float] = []
    began = clock()
    now = began
    while effort.goes_on(len(durations), now - began):
        before = clock()
        answer = await call(message)
        now = clock()
        durations.append(now - before)
    if answer != message:
        raise BenchFailed(f"the answer to {message!r} was {answer!r}")
    return statistics.median(durations)


async def rate(call: Call, message: Any, effort: Effort, outstanding: int) -> float:
    """Calls per second when `outstanding` callers each make one after the other."""
    clock = time.perf_counter
    made = 0

    async def caller() -> None:
        nonlocal made
        while effort.goes_on(made, clock() - began):
            made += 1
            await call(message)

    began = clock()
    async with asyncio.TaskGroup() as group:
        for _ in range(outstanding):
            group.create_task(caller())
    return made / (clock() - began)
