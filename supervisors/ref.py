"""`Ref`: how a server is reached. A name, not a process: it outlives every restart of what it names.

Used in the event loop of its exchange: a client's, or a server's own. Every operation ends by its deadline.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from supervisors.envelope import current_context
from supervisors.errors import ActorDown, CallTimeout, NotRegistered
from supervisors.exits import NoProcess
from supervisors.wire.link import LinkLost
from supervisors.wire.vocabulary import Address, Down, GetStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from supervisors.envelope import Statistics
    from supervisors.exchange import Exchange
    from supervisors.wire.link import Link

__all__ = ["DEFAULT_TIMEOUT", "Ref"]

DEFAULT_TIMEOUT = 5.0
"""Seconds; OTP's default for a call."""


class Ref:
    """A reference to one server by its registered name. Cheap to make; keeps the link to the server's present process."""

    __slots__ = ("_address", "_exchange", "_link", "name")

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.name = name
        self._exchange = exchange
        self._address: Address | None = None
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f"<Ref {self.name!r}>"

    async def call(self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None) -> Any:
        """Send a message and wait for its reply; at most `timeout` seconds, resolving and connecting included.

        Raises `CallTimeout`, `ActorDown` with the exit reason when the server ends meanwhile (the message may have been
        executed: it is not sent again), `NotRegistered`, `Overloaded`, `Refused`, or `UnsupportedValue` before anything is
        sent. Inside a server, deadline, correlation id and trace context of the message being handled are handed on.
        """
        now = time.monotonic()
        deadline = now + timeout
        context = current_context.get()
        if context.deadline is not None and context.deadline < deadline:
            deadline = context.deadline
            timeout = max(0.0, deadline - now)
        exchange = self._exchange
        exchange.check()
        link = self._link
        if link is None or link.closed:
            link = await self._connect(timeout, deadline)
        try:
            return await link.call(message, timeout, deadline, correlation or context.correlation, context.trace)
        except LinkLost:
            raise await self._down(deadline) from None

    async def cast(self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None) -> None:
        """Send a message that nobody answers. `timeout` bounds finding the server and writing; errors as `call`'s."""
        deadline = time.monotonic() + timeout
        context = current_context.get()
        self._exchange.check()
        link = self._link
        if link is None or link.closed:
            link = await self._connect(timeout, deadline)
        try:
            await link.cast(message, timeout, deadline, correlation or context.correlation, context.trace)
        except LinkLost:
            raise await self._down(deadline) from None

    async def stream(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """Open a stream and yield its items; `timeout` bounds the wait for each. Leaving the loop early cancels it."""
        context = current_context.get()
        self._exchange.check()
        link = self._link
        if link is None or link.closed:
            link = await self._connect(timeout, time.monotonic() + timeout)
        items = link.stream(message, timeout, correlation or context.correlation, context.trace)
        try:
            async for item in items:
                yield item
        except LinkLost:
            raise await self._down(time.monotonic() + timeout) from None
        finally:
            await items.aclose()

    async def monitor(self) -> Down:
        """Wait until the process behind the name ends, and tell how. At once, with `NoProcess`, when there is none."""
        exchange = self._exchange
        exchange.check()
        try:
            address = await exchange.resolve(self.name, DEFAULT_TIMEOUT, time.monotonic() + DEFAULT_TIMEOUT)
        except (NotRegistered, CallTimeout):
            return Down(self.name, NoProcess())
        return Down(self.name, await exchange.await_down(address, _FOREVER, time.monotonic() + _FOREVER))

    async def ping(self, *, timeout: float = DEFAULT_TIMEOUT) -> float:
        """Seconds to the server's loop and back, past its mailbox."""
        link = await self._connect(timeout, time.monotonic() + timeout)
        try:
            return await link.ping(timeout)
        except LinkLost:
            raise await self._down(time.monotonic() + timeout) from None

    async def statistics(self, *, timeout: float = DEFAULT_TIMEOUT) -> Statistics:
        """The server's counters, answered past its mailbox."""
        return await self.call(GetStatistics(), timeout=timeout)  # type: ignore[no-any-return]

    async def address(self, *, timeout: float = DEFAULT_TIMEOUT) -> Address:
        """Where the server is at this moment."""
        self._exchange.check()
        return await self._exchange.resolve(self.name, timeout, time.monotonic() + timeout)

    async def _connect(self, timeout: float, deadline: float) -> Link:
        """A link to the process that has the name now. An address whose socket is dead is resolved anew, until the deadline."""
        while True:
            address = await self._exchange.resolve(self.name, timeout, deadline)
            try:
                link = await self._exchange.link(address.path, self.name, timeout, deadline)
            except LinkLost:
                # The registry learns of a death by the same socket as we do; it may be some microseconds behind.
                await self._exchange.pause(self.name, timeout, deadline)
                continue
            self._address, self._link = address, link
            return link

    async def _down(self, deadline: float) -> ActorDown:
        """The link was lost with this call on it: forget it, and learn why."""
        address, self._link = self._address, None
        assert address is not None  # noqa: S101 - there was a link
        self._exchange.forget(address)
        return ActorDown(self.name, await self._exchange.why_down(address, deadline))


_FOREVER = 10 * 365 * 86400.0
