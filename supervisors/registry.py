"""The registry: names → addresses. A server like any other; its socket has a fixed place and is every client's way in.

It holds nothing that it could lose: each named server keeps a stream open to it for as long as it has the name, and opens
it again when the registry comes back. So names survive the registry's own restart, and a dead server's name goes with it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from supervisors.errors import NotRegistered, Refused
from supervisors.server import Server
from supervisors.wire.vocabulary import REGISTRY, Address, Names, Register, Unregister, WhereIs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Registry"]

SETTLE = 1.0
"""Seconds after the registry's own start in which an unknown name may just not have come back yet."""
PATIENCE = 2.0
"""Seconds for which a name whose server has died is expected back; then it is unknown."""


class Registry(Server):
    """Answers `WhereIs` and `Names`, holds a `Register` stream for each name."""

    concurrency = 4096  # a look-up may wait for a name that is being restarted, and none may hold up another
    mailbox_limit = 8192
    stream_limit = 65536
    cancel_running = True

    async def init(self) -> None:
        """Start with no names: they come by themselves."""
        self._born = time.monotonic()
        self._addresses: dict[str, Address] = {}
        own = self._mailbox.address
        if own is not None:
            self._addresses[REGISTRY] = own  # it keeps no stream to itself
        self._died: dict[str, float] = {}
        self._changes: dict[str, asyncio.Future[None]] = {}

    async def handle_call(self, message: Any) -> Any:
        """`WhereIs` gives an `Address`, or raises `NotRegistered`; `Names` gives all of them."""
        match message:
            case WhereIs(str(name)):
                return await self._where_is(name)
            case Names():
                return dict(self._addresses)
            case _:
                return await super().handle_call(message)

    async def handle_cast(self, message: Any) -> None:
        """`Unregister`: the server ends and will not be started again, so nobody need wait for its name."""
        match message:
            case Unregister(str(name), incarnation):
                holder = self._addresses.get(name)
                if holder is not None and holder.incarnation == incarnation:
                    del self._addresses[name]
                    self._died.pop(name, None)
                    self._changed(name)
            case _:
                await super().handle_cast(message)

    async def handle_stream(self, message: Any) -> AsyncIterator[Any]:
        """`Register`: yields once when the name is held, and holds it until the stream is closed."""
        match message:
            case Register(str(name), Address(str(place), str(), int(), int(incarnation), str()) as address):
                pass
            case _:
                problem = f"the registry does not stream {message!r:.200}"
                raise Refused(problem, "unhandled")
        holder = self._addresses.get(name)
        if holder is not None and holder.place != place:
            problem = f"the name {name!r} is taken by {holder.place}; give one of the two another name="
            raise Refused(problem, "name_taken")
        if holder is not None and holder.incarnation > incarnation:
            problem = f"the name {name!r} is held by a later incarnation of {place}"
            raise Refused(problem, "name_taken")
        self._addresses[name] = address
        self._died.pop(name, None)
        self._changed(name)
        try:
            yield True
            await asyncio.get_running_loop().create_future()
        finally:
            if self._addresses.get(name) is address:
                del self._addresses[name]
                self._forget_old()
                self._died[name] = time.monotonic()

    async def _where_is(self, name: str) -> Address:
        while True:
            address = self._addresses.get(name)
            if address is not None:
                return address
            until = max(self._born + SETTLE, self._died.get(name, 0.0) + PATIENCE)
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise NotRegistered(name, self._similar(name))
            change = self._changes.get(name)
            if change is None:
                change = self._changes[name] = asyncio.get_running_loop().create_future()
            await asyncio.wait([change], timeout=remaining)
            if self._changes.get(name) is change:
                del self._changes[name]  # in vain; the others who wait for it wait no longer either

    def _changed(self, name: str) -> None:
        change = self._changes.pop(name, None)
        if change is not None and not change.done():
            change.set_result(None)

    def _forget_old(self) -> None:
        """The dead of long ago are not expected back."""
        horizon = time.monotonic() - PATIENCE
        self._died = {name: when for name, when in self._died.items() if when > horizon}

    def _similar(self, name: str) -> tuple[str, ...]:
        from difflib import get_close_matches

        return tuple(get_close_matches(name, self._addresses, n=2))
