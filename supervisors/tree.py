"""One snapshot of the tree, for every viewer: made by asking each supervisor, from the root down, through its door.

Called in a client's event loop. A supervisor that does not answer is shown as such; the rest of the tree is not held up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from supervisors.errors import ActorDown, CallFailed
from supervisors.spec import ChildType
from supervisors.wire.vocabulary import ChildInfo, StatusReport, WhichChildren

if TYPE_CHECKING:
    from supervisors.exchange import Exchange

__all__ = ["Branch", "snapshot"]


@dataclass(frozen=True, slots=True)
class Branch:
    """One process of the tree. `uptime` in seconds; `reason` is how its last incarnation ended, `problem` why it is not known."""

    place: str
    type: str
    state: str
    pid: int
    restarts: int
    reason: str
    uptime: float
    name: str | None = None
    problem: str = ""
    children: tuple[Branch, ...] = field(default=())
    counters: dict[str, int] = field(default_factory=dict)
    """of the whole node, on the supervisor that was asked: what its control plane has refused, and why; how often it booted"""

    @property
    def id(self) -> str:
        """The last part of its place."""
        return self.place.rpartition("/")[2]

    def walk(self) -> Iterator[Branch]:
        """This process and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, place_or_name: str) -> Branch:
        """The process of that place or name. Raises KeyError."""
        for each in self.walk():
            if place_or_name in (each.place, each.name):
                return each
        raise KeyError(place_or_name)

    def __str__(self) -> str:
        return "\n".join(self._lines("", ""))

    def _lines(self, first: str, rest: str) -> Iterator[str]:
        mark = "▸ " if self.type == ChildType.SUPERVISOR else ""
        facts = [f"pid {self.pid}" if self.pid else "no process", self.state]
        if self.uptime:
            facts.append(f"up {self.uptime:.1f} s")
        if self.restarts:
            facts.append(f"restarted {self.restarts}x, last: {self.reason}")
        elif self.reason:
            facts.append(self.reason)
        if self.problem:
            facts.append(self.problem)
        yield f"{first}{mark}{self.id}  ({', '.join(facts)})"
        for index, child in enumerate(self.children):
            last = index == len(self.children) - 1
            yield from child._lines(rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


async def snapshot(exchange: Exchange, door: str, timeout: float) -> Branch:
    """The tree below a supervisor's door. Raises as a call does when that supervisor itself does not answer."""
    deadline = time.monotonic() + timeout
    report = await _ask_until_there(exchange, door, timeout, deadline)
    return await _branch(exchange, report, None, deadline)


async def _ask_until_there(exchange: Exchange, door: str, timeout: float, deadline: float) -> StatusReport:
    """The root's report; a root that is being booted again is waited for, until the deadline."""
    while True:
        try:
            report = await exchange.ask(door, "the root supervisor", WhichChildren(), max(0.0, deadline - time.monotonic()))
        except ActorDown:
            await exchange.pause("the root supervisor", timeout, deadline)
        else:
            return cast("StatusReport", report)


async def _branch(exchange: Exchange, report: StatusReport, info: ChildInfo | None, deadline: float) -> Branch:
    children = await asyncio.gather(*(_child(exchange, report.place, each, deadline) for each in report.children))
    return Branch(
        place=report.place,
        type=ChildType.SUPERVISOR,
        state=report.phase,
        pid=report.pid,
        restarts=info.restarts if info else 0,
        reason=str(info.last_reason or "") if info else "",
        uptime=report.uptime,
        children=tuple(children),
        counters=dict(report.counters),
    )


async def _child(exchange: Exchange, place: str, info: ChildInfo, deadline: float) -> Branch:
    problem = ""
    if info.type == ChildType.SUPERVISOR and info.path:
        try:
            remaining = max(0.0, deadline - time.monotonic())
            report = await exchange.ask(info.path, f"{place}/{info.id}", WhichChildren(), remaining)
            return await _branch(exchange, report, info, deadline)
        except CallFailed as error:
            problem = str(error)
    return Branch(
        place=f"{place}/{info.id}",
        type=info.type,
        state=info.state,
        pid=info.pid,
        restarts=info.restarts,
        reason=str(info.last_reason or ""),
        uptime=info.uptime,
        name=info.name,
        problem=problem,
    )
