"""What travels through a mailbox: a message, where it came from, what came along with it, and the credit of a stream.

Used in the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from supervisors.wire.codec import wire_type
from supervisors.wire.peer import LinkStatistics

__all__ = ["NO_CONTEXT", "Context", "Credit", "Entry", "Kind", "Sink", "Statistics", "current_context"]

Kind: TypeAlias = Literal["call", "cast", "info", "timer", "stream"]


class Sink(Protocol):
    """Where a message came from and its answer goes: one connection of one caller."""

    def reply(self, id_: int, value: Any) -> None:
        """Answer a call. Raises `WireError` when the value cannot travel; nothing was sent then."""

    def error(self, id_: int, error: BaseException) -> None:
        """Answer a call or end a stream with a typed error."""

    def item(self, id_: int, seq: int, value: Any) -> None:
        """Send the next item of a stream. Raises `WireError` as `reply` does."""

    def end(self, id_: int, count: int) -> None:
        """End a stream of that many items."""

    async def until_writable(self) -> None:
        """Return when the caller reads what it was sent, or has gone."""

    def statistics(self) -> LinkStatistics:
        """The counters of this moment."""


class Context(NamedTuple):
    """What came along with a message. `deadline` in seconds of `time.monotonic()`, or None."""

    deadline: float | None = None
    correlation: str | None = None
    trace: str | None = None
    """a W3C `traceparent`"""

    def remaining(self) -> float | None:
        """Seconds that are left, at least 0, or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


NO_CONTEXT = Context()
current_context: ContextVar[Context] = ContextVar("supervisors_context", default=NO_CONTEXT)


@wire_type("supervisors.Statistics")
@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of one server since its start; the first three are of this moment."""

    waiting: int
    """messages in the mailbox"""
    running: int
    """messages that are being handled"""
    streams: int
    """open streams"""
    handled: int
    refused: int
    """answered with `Refused`, or with a value that could not travel"""
    overloaded: int
    """turned away because the mailbox was full; never executed"""
    expired: int
    """whose deadline had passed before their turn came; never executed"""
    cancelled: int
    """whose caller had gone"""
    links: LinkStatistics
    """the server's ends of all its links, the closed ones included"""


class Entry:
    """One message on its way through the mailbox."""

    __slots__ = ("body", "cancelled", "context", "credit", "id", "kind", "sink", "task")

    def __init__(self, kind: Kind, body: Any, sink: Sink | None = None, id_: int = 0, context: Context = NO_CONTEXT) -> None:
        self.kind = kind
        self.body = body
        self.sink = sink
        self.id = id_
        self.context = context
        self.cancelled = False
        """nobody waits for its answer: the caller has gone, or has been answered"""
        self.task: asyncio.Task[None] | None = None
        self.credit: Credit | None = None

    def answer(self, error: BaseException) -> None:
        """Tell whoever waits that there will be no reply. A second answer is none."""
        if self.sink is not None and self.kind != "cast" and not self.cancelled:
            self.cancelled = True
            self.sink.error(self.id, error)


class Credit:
    """How many items the reader of a stream takes; the stream waits when they are used up.

    The reader says how many it takes in all, modulo 2**32: a lost word is made good by the next one, a doubled one is none.
    """

    __slots__ = ("_granted", "_used", "_waiter")

    def __init__(self, initial: int) -> None:
        self._granted = initial
        self._used = 0
        self._waiter: asyncio.Future[None] | None = None

    def grant(self, total: int) -> None:
        """The reader takes that many in all. Called in the loop, when its frame arrives, perhaps late."""
        more = (total - self._granted) & 0xFFFF_FFFF
        if more < 0x8000_0000:  # noqa: PLR2004 - else it is an older word
            self._granted += more
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def take(self) -> None:
        """Wait until the reader takes one more item."""
        while self._used >= self._granted:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._used += 1
