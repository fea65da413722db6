"""`Ref`: how a server is reached. A name, not a process: it outlives every restart of what it names.

Used in the event loop of its exchange: a client's, or a server's own. Every operation ends by its deadline.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from supervisors.envelope import current_context
from supervisors.errors import ActorDown, BadSpec, NotRegistered
from supervisors.exits import NoProcess
from supervisors.wire.link import Link, LinkLost, NotAccepted
from supervisors.wire.vocabulary import Address, Down, GetStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from supervisors.envelope import Context, Statistics
    from supervisors.exchange import Exchange

__all__ = ["DEFAULT_TIMEOUT", "Ref"]

DEFAULT_TIMEOUT = 5.0
"""Seconds; OTP's default for a call."""

_FOREVER = 10 * 365 * 86400.0
_END_OF_TIME = 1e12


class Ref:
    """A reference to one server by its registered name. Cheap to make; keeps the link to the server's present process."""

    __slots__ = ("_exchange", "_link", "name")

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.name = name
        self._exchange = exchange
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f"<Ref {self.name!r}>"

    async def call(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None, trace: str | None = None
    ) -> Any:
        """Send a message and wait for its reply; at most `timeout` seconds, resolving and connecting included.

        Raises `CallTimeout`, `ActorDown` with the exit reason when the server ends meanwhile (the message may have been
        executed: it is not sent again), `NotRegistered`, `Overloaded`, `Refused`, or `UnsupportedValue` before anything is
        sent. Inside a server, deadline, correlation id and trace context (a W3C `traceparent`) of the message being
        handled are handed on; the deadline only ever shrinks.
        """
        now = time.monotonic()
        deadline = now + timeout
        if not deadline < _END_OF_TIME:
            raise BadSpec("timeout", f"{timeout!r} is no number of seconds; every call has a deadline")
        context = current_context.get()
        if context.deadline is not None and context.deadline < deadline:
            deadline = context.deadline
            timeout = max(0.0, deadline - now)
        link = self._link
        while True:
            if link is None or link.closed:
                self._exchange.check()
                link = await self._connect(timeout, deadline)
            correlation, trace = correlation or context.correlation, trace or context.trace
            try:
                if link.blocked:
                    return await link.call(message, timeout, deadline, correlation, trace)
                id_, future = link.start(message, timeout, deadline, correlation, trace)
                try:
                    return await future
                except asyncio.CancelledError:
                    link.forget(id_)
                    raise
            except NotAccepted as ending:
                link = await self._next(ending, timeout, deadline)
            except LinkLost:
                raise await self._down(link, deadline) from None

    async def cast(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None, trace: str | None = None
    ) -> None:
        """Send a message that nobody answers. `timeout` bounds finding the server and writing; errors as `call`'s.

        What becomes of it, nobody is told: a full mailbox drops it and counts it as `overloaded`.
        """
        _, deadline, context = _bounds(timeout, shrink=False)
        self._exchange.check()
        link = self._link
        if link is None or link.closed:
            link = await self._connect(timeout, deadline)
        try:
            await link.cast(message, timeout, deadline, correlation or context.correlation, trace or context.trace)
        except LinkLost:
            raise await self._down(link, deadline) from None

    async def stream(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None, trace: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """Open a stream and yield its items; `timeout` bounds the wait for each. Leaving the loop early cancels it.

        Raises as `call` does. Inside a server, the deadline of the message being handled bounds the whole stream.
        """
        seconds, deadline, context = _bounds(timeout)
        self._exchange.check()
        link = self._link
        while True:
            if link is None or link.closed:
                link = await self._connect(seconds, deadline)
            items = link.stream(
                message, timeout, correlation or context.correlation, trace or context.trace, deadline=context.deadline
            )
            try:
                async for item in items:
                    yield item
                return
            except NotAccepted as ending:
                link = await self._next(ending, seconds, deadline)
            except LinkLost:
                raise await self._down(link, time.monotonic() + timeout) from None
            finally:
                await items.aclose()

    async def monitor(self) -> Down:
        """Wait until the process behind the name ends, and tell how. With `NoProcess`, and at once, when there is none."""
        exchange = self._exchange
        end_of_time = time.monotonic() + _FOREVER
        try:
            address = await exchange.resolve(self.name, _FOREVER, end_of_time)
        except NotRegistered:
            return Down(self.name, NoProcess())
        return Down(self.name, await exchange.await_down(address, _FOREVER, end_of_time))

    async def ping(self, *, timeout: float = DEFAULT_TIMEOUT) -> float:
        """Seconds to the server's loop and back, past its mailbox."""
        seconds, deadline, _ = _bounds(timeout)
        self._exchange.check()
        link = await self._connect(seconds, deadline)
        try:
            return await link.ping(max(0.0, deadline - time.monotonic()))
        except LinkLost:
            raise await self._down(link, deadline) from None

    async def statistics(self, *, timeout: float = DEFAULT_TIMEOUT) -> Statistics:
        """The counters of the server and of its links, answered past its mailbox."""
        return await self.call(GetStatistics(), timeout=timeout)  # type: ignore[no-any-return]

    async def address(self, *, timeout: float = DEFAULT_TIMEOUT) -> Address:
        """Where the server is at this moment."""
        seconds, deadline, _ = _bounds(timeout)
        return await self._exchange.resolve(self.name, seconds, deadline)

    async def _connect(self, timeout: float, deadline: float) -> Link:
        self._link = await self._exchange.connect(self.name, timeout, deadline)
        return self._link

    async def _down(self, link: Link, deadline: float) -> ActorDown:
        """The link was lost with this call on it: learn why. Raises `ClientClosed` when this client closed it."""
        assert link.address is not None  # noqa: S101 - `connect` put it there
        return ActorDown(self.name, await self._exchange.why_down(link.address, deadline))

    async def _next(self, ending: NotAccepted, timeout: float, deadline: float) -> Link:
        """The server ends and did not accept this message: it goes to the next process that has the name."""
        try:
            return await self._connect(timeout, deadline)
        except NotRegistered:
            raise ActorDown(self.name, ending.reason) from None


def _bounds(timeout: float, *, shrink: bool = True) -> tuple[float, float, Context]:
    """The timeout and the deadline of an operation begun now, and the context of the message that is being handled."""
    now = time.monotonic()
    deadline = now + timeout
    if not deadline < _END_OF_TIME:
        raise BadSpec("timeout", f"{timeout!r} is no number of seconds")
    context = current_context.get()
    if shrink and context.deadline is not None and context.deadline < deadline:
        return max(0.0, context.deadline - now), context.deadline, context
    return timeout, deadline, context
