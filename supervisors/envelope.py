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

__all__ = ["NO_CONTEXT", "Context", "Credit", "Entry", "Kind", "Sink", "Statistics", "Timer", "current_context"]

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


class Context(NamedTuple):
    """What came along with a message. `deadline` in seconds of `time.monotonic()`, or None."""

    deadline: float | None = None
    correlation: str | None = None
    trace: str | None = None

    def remaining(self) -> float | None:
        """Seconds that are left, at least 0, or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


NO_CONTEXT = Context()
current_context: ContextVar[Context] = ContextVar("supervisors_context", default=NO_CONTEXT)


@wire_type("supervisors.Statistics")
@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of one server since its start; `waiting` and `running` are of this moment."""

    waiting: int
    running: int
    streams: int
    handled: int
    refused: int
    overloaded: int
    expired: int
    cancelled: int


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
        self.task: asyncio.Task[None] | None = None
        self.credit: Credit | None = None


    def is_cancelled(self) -> bool:
        """Whether nobody waits any more, as of now: it may have changed while the handler ran."""
        return self.cancelled


class Credit:
    """How many items the reader of a stream still takes; the stream waits when there is none."""

    __slots__ = ("_left", "_waiter")

    def __init__(self, initial: int) -> None:
        self._left = initial
        self._waiter: asyncio.Future[None] | None = None

    def add(self, count: int) -> None:
        """The reader takes that many more. Called in the loop, when its frame arrives."""
        self._left += count
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> None:
        """Wait until the reader takes one more item."""
        while self._left <= 0:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._left -= 1


class Timer:
    """A timer that `Server.send_after` started."""

    __slots__ = ("_entry", "_handle")

    def __init__(self, handle: asyncio.TimerHandle, entry: Entry) -> None:
        self._handle = handle
        self._entry = entry

    def cancel(self) -> None:
        """Nothing will come of it any more, even if it was due and waits in the mailbox."""
        self._handle.cancel()
        self._entry.cancelled = True
