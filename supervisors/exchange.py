"""The exchange: finds servers by name and keeps one link to each. One per event loop, used only in that loop.

A name is resolved through the registry's socket, once, and then every call goes straight to the server. When a link ends,
the address is forgotten, and the supervisor of that server is asked how it ended, so that callers learn the reason.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisors.errors import ActorDown, CallFailed, CallTimeout, ClientClosed, ClientForked, NodeDown
from supervisors.exits import ExitReason, Lost
from supervisors.ref import Ref
from supervisors.wire.link import Link, LinkLost
from supervisors.wire.vocabulary import Address, AwaitDown, WhereIs

__all__ = ["REGISTRY", "ROOT_DOOR", "Exchange"]

REGISTRY = "registry"
"""The registry's socket in the node's directory, and its name."""
ROOT_DOOR = "root"
"""The root supervisor's socket in the node's directory."""

_RETRY = 0.002
_RETRY_MOST = 0.05
_REASON_TIMEOUT = 1.0


class Exchange:
    """Names, links and exit reasons for all refs of one event loop. `directory` is the node's socket directory."""

    def __init__(self, directory: Path, *, gone: Callable[[], str | None] = lambda: None) -> None:
        self.directory = directory
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._pid = os.getpid()
        self._gone = gone
        self._links: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Task[Link]] = {}
        self._reasons: dict[tuple[str, int], asyncio.Task[ExitReason]] = {}

    def ref(self, name: str) -> Ref:
        """A reference to the server registered under that name, whether or not it is there yet."""
        return Ref(self, name)

    def check(self) -> None:
        """Raise unless this exchange may be used here and now. Called at the start of every operation."""
        if os.getpid() != self._pid:
            problem = (
                f"this client was opened in process {self._pid} and this is process {os.getpid()}, forked from it: "
                "open a client of its own in each process, after the fork"
            )
            raise ClientForked(problem)
        if self.closed:
            problem = "this client is closed"
            raise ClientClosed(problem)
        problem_of_node = self._gone()
        if problem_of_node is not None:
            raise NodeDown(problem_of_node)

    # -- finding -----------------------------------------------------------------------------------------------------

    async def resolve(self, name: str, timeout: float, deadline: float) -> Address:
        """The address of a name. Waits, until the deadline, for a registry or a server that is being restarted."""
        registry = str(self.directory / REGISTRY)
        pause = _RETRY
        while True:
            self.check()
            try:
                link = await self.link(registry, "the registry", timeout, deadline)
                found = await link.call(WhereIs(name), timeout, deadline, None, None)
            except (LinkLost, ActorDown):
                # The registry itself is being restarted: it is back in some milliseconds.
                await self.pause(name, timeout, deadline, pause)
                pause = min(2 * pause, _RETRY_MOST)
                continue
            except CallTimeout:
                raise CallTimeout(name, timeout) from None
            assert isinstance(found, Address)  # noqa: S101 - what the registry answers
            return found

    async def link(self, path: str, target: str, timeout: float, deadline: float) -> Link:
        """The link to a socket, shared by all callers. Raises `LinkLost` when nobody listens there."""
        link = self._links.get(path)
        if link is not None and not link.closed:
            return link
        opening = self._opening.get(path)
        if opening is None:
            opening = self._opening[path] = self.loop.create_task(self._open(path, target))
            opening.add_done_callback(lambda task: self._opened(path, task))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(opening)
        except TimeoutError:
            raise CallTimeout(target, timeout) from None
        except OSError as error:
            raise LinkLost(str(error)) from None

    async def _open(self, path: str, target: str) -> Link:
        link = await Link.open(path, target)
        if self.closed:
            link.close()
            raise LinkLost
        self._links[path] = link
        return link

    def _opened(self, path: str, task: asyncio.Task[Link]) -> None:
        self._opening.pop(path, None)
        if not task.cancelled():
            task.exception()  # every waiter has it; a task without waiters is none of anybody's business

    async def pause(self, target: str, timeout: float, deadline: float, seconds: float = _RETRY) -> None:
        """Wait a moment for something that is being restarted. Raises `CallTimeout` at the deadline."""
        now = time.monotonic()
        if now >= deadline:
            raise CallTimeout(target, timeout)
        await asyncio.sleep(min(seconds * random.uniform(0.5, 1.5), deadline - now))  # noqa: S311 - jitter, no secret

    # -- endings -----------------------------------------------------------------------------------------------------

    def forget(self, address: Address) -> None:
        """That link has ended. Called by whoever noticed."""
        link = self._links.get(address.path)
        if link is not None and link.closed:
            del self._links[address.path]

    async def why_down(self, address: Address, deadline: float) -> ExitReason:
        """How a server ended whose link was lost; asked of its supervisor, once for all callers, bounded by `deadline`."""
        key = (address.path, address.incarnation)
        asked = self._reasons.get(key)
        if asked is None:
            asked = self._reasons[key] = self.loop.create_task(self._ask_why(address))
            asked.add_done_callback(lambda _: self._reasons.pop(key, None))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(asked)
        except TimeoutError:
            return Lost("its supervisor did not say why in time")

    async def _ask_why(self, address: Address) -> ExitReason:
        deadline = time.monotonic() + _REASON_TIMEOUT
        try:
            return await self.await_down(address, _REASON_TIMEOUT, deadline)
        except CallTimeout:
            return Lost("the link to it ended, though it lives")

    async def await_down(self, address: Address, timeout: float, deadline: float) -> ExitReason:
        """Wait until that incarnation is down. Raises `CallTimeout`; a supervisor that is gone itself makes it `Lost`."""
        try:
            link = await self.link(address.door, "its supervisor", timeout, deadline)
            reason = await link.call(AwaitDown(address.id, address.incarnation), timeout, deadline, None, None)
        except CallTimeout:
            raise
        except (LinkLost, CallFailed):
            return Lost("its supervisor ended")
        else:
            return reason  # type: ignore[no-any-return]

    async def ask(self, path: str, target: str, message: Any, timeout: float) -> Any:
        """Call a socket whose path is known: a supervisor's door. Raises as `Ref.call` does."""
        self.check()
        deadline = time.monotonic() + timeout
        try:
            link = await self.link(path, target, timeout, deadline)
            return await link.call(message, timeout, deadline, None, None)
        except LinkLost:
            raise ActorDown(target, Lost("nobody answers at its socket")) from None

    async def close(self) -> None:
        """End every link. Whatever waits gets its error."""
        self.closed = True
        tasks = [*self._opening.values(), *self._reasons.values()]
        for task in tasks:
            task.cancel()
        for link in self._links.values():
            link.close()
        self._links.clear()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
