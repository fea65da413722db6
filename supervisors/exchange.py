"""The exchange: finds servers by name and keeps one link to each. One per event loop, used only in that loop.

A name is resolved through the registry's socket, once, and then every call goes straight to the server. When a link ends,
its address is forgotten, and the supervisor of that server is asked how it ended, so that callers learn the reason.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisors.errors import ActorDown, CallTimeout, ClientClosed, ClientForked, NodeDown, Refused, WrongLoop
from supervisors.exits import ExitReason, Lost, NoProcess
from supervisors.machine import State
from supervisors.ref import Ref
from supervisors.wire.link import Link, LinkLost
from supervisors.wire.links import Links, NobodyListens
from supervisors.wire.peer import LinkStatistics
from supervisors.wire.vocabulary import REGISTRY, Address, AwaitDown, WhereIs, WhichChildren

__all__ = ["REGISTRY", "ROOT_DOOR", "Exchange"]

ROOT_DOOR = "root"
"""The root supervisor's socket in the node's directory."""

_RETRY = 0.002
_RETRY_MOST = 0.05
_REASON_TIMEOUT = 1.0


class Exchange:
    """Names, links and exit reasons for all refs of one event loop. `directory` is the node's socket directory.

    `gone` tells, in one sentence, that the node has ended and will not come back, or None.
    """

    def __init__(self, directory: Path, *, gone: Callable[[], str | None] = lambda: None) -> None:
        self.directory = directory
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._pid = os.getpid()
        self._gone = gone
        self._links = Links(self._link_lost)
        self._known: dict[str, Link] = {}
        self._reasons: dict[tuple[str, int], asyncio.Task[ExitReason]] = {}

    def ref(self, name: str) -> Ref:
        """A reference to the server registered under that name, whether or not it is there yet."""
        return Ref(self, name)

    def check(self) -> None:
        """Raise unless this exchange may be used in this process now. Called at the start of every operation."""
        if os.getpid() != self._pid:
            problem = (
                f"this client was opened in process {self._pid} and this is process {os.getpid()}, forked from it: "
                "open a client of its own in each process, after the fork"
            )
            raise ClientForked(problem)
        if self.closed:
            problem = "this client is closed"
            raise ClientClosed(problem)

    def _check_around(self) -> None:
        """As `check`, and that this is the right loop, and that there is a node. Called where no living link proves it."""
        self.check()
        if asyncio.get_running_loop() is not self.loop:
            problem = "this client was opened in another event loop: open one in each, or use supervisors.sync from any thread"
            raise WrongLoop(problem)
        problem_of_node = self._gone()
        if problem_of_node is not None:
            raise NodeDown(problem_of_node)

    def statistics(self) -> LinkStatistics:
        """The callers' ends of all links, the closed ones included."""
        return self._links.statistics()

    # -- finding -----------------------------------------------------------------------------------------------------

    async def connect(self, name: str, timeout: float, deadline: float) -> Link:
        """A link to the process that has the name now, its address in it. Waits for one that is being restarted."""
        known = self._known.get(name)
        if known is not None and not known.closed:
            return known
        pause = _RETRY
        while True:
            address = await self.resolve(name, timeout, deadline)
            try:
                link = await self.link(address.path, name, timeout, deadline)
            except LinkLost:
                # The registry learns of a death by the same kind of socket as we do; it may be some microseconds behind.
                await self.pause(name, timeout, deadline, pause)
                pause = min(2 * pause, _RETRY_MOST)
            else:
                link.address = address
                self._known[name] = link
                return link

    async def resolve(self, name: str, timeout: float, deadline: float) -> Address:
        """The address of a name. Waits, until the deadline, for a registry or a server that is being restarted."""
        pause = _RETRY
        while True:
            self._check_around()
            try:
                if name == REGISTRY:
                    found = await self._where_is_registry(timeout, deadline)
                else:
                    link = await self.link(str(self.directory / REGISTRY), "the registry", timeout, deadline)
                    found = await link.call(WhereIs(name), timeout, deadline, None, None)
            except (LinkLost, ActorDown):
                found = None  # the registry itself is being restarted: it is back in some milliseconds
            except CallTimeout:
                raise CallTimeout(name, timeout) from None
            if isinstance(found, Address):
                return found
            await self.pause(name, timeout, deadline, pause)
            pause = min(2 * pause, _RETRY_MOST)

    async def _where_is_registry(self, timeout: float, deadline: float) -> Address | None:
        """Who knows all names has none itself: the root supervisor tells."""
        door = str(self.directory / ROOT_DOOR)
        link = await self.link(door, "the root supervisor", timeout, deadline)
        report = await link.call(WhichChildren(), timeout, deadline, None, None)
        for each in report.children:
            if each.id == REGISTRY and each.state == State.RUNNING:
                return Address(f"{report.place}/{REGISTRY}", each.path, each.pid, each.incarnation, door)
        return None

    async def link(self, path: str, target: str, timeout: float, deadline: float) -> Link:
        """The link to a socket. Raises `NobodyListens`, `LinkLost` when it cannot be had now, `CallTimeout`."""
        return await self._links.get(path, target, timeout, deadline)

    def _link_lost(self, link: Link) -> None:
        for name in [name for name, each in self._known.items() if each is link]:
            del self._known[name]

    async def pause(self, target: str, timeout: float, deadline: float, seconds: float = _RETRY) -> None:
        """Wait a moment for something that is being restarted. Raises `CallTimeout` at the deadline."""
        now = time.monotonic()
        if now >= deadline:
            raise CallTimeout(target, timeout)
        await asyncio.sleep(min(seconds * random.uniform(0.5, 1.5), deadline - now))  # noqa: S311 - jitter, no secret

    # -- endings -----------------------------------------------------------------------------------------------------

    async def why_down(self, address: Address, deadline: float) -> ExitReason:
        """How a server ended whose link was lost; asked of its supervisor, once for all callers, bounded by `deadline`."""
        self.check()
        key = (address.path, address.incarnation)
        asked = self._reasons.get(key)
        if asked is None:
            asked = self._reasons[key] = self.loop.create_task(self._ask_why(address))
            asked.add_done_callback(lambda task: self._told(key, task))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(asked)
        except TimeoutError:
            return Lost("its supervisor did not say why in time")
        except asyncio.CancelledError:
            if asked.cancelled():
                self.check()  # it was `close` who cancelled, not this caller
            raise

    def _told(self, key: tuple[str, int], task: asyncio.Task[ExitReason]) -> None:
        del self._reasons[key]
        if not task.cancelled():
            task.exception()  # every waiter has it

    async def _ask_why(self, address: Address) -> ExitReason:
        try:
            return await self.await_down(address, _REASON_TIMEOUT, time.monotonic() + _REASON_TIMEOUT)
        except CallTimeout:
            return Lost("the link to it ended, though it lives")
        except Refused:
            return Lost("its supervisor would not say")

    async def await_down(self, address: Address, timeout: float, deadline: float) -> ExitReason:
        """Wait until that incarnation is down. A supervisor that is gone itself makes it `Lost`: its children died with it.

        Raises `CallTimeout`, and `Overloaded` when too many wait for that supervisor's word already.
        """
        pause = _RETRY
        while True:
            self.check()
            try:
                link = await self.link(address.door, "its supervisor", timeout, deadline)
                reason = await link.call(AwaitDown(address.id, address.incarnation), timeout, deadline, None, None)
            except NobodyListens:
                return Lost("its supervisor ended")
            except LinkLost:
                # It ended, or has too many visitors: it is asked again until it answers or nobody listens.
                await self.pause("its supervisor", timeout, deadline, pause)
                pause = min(2 * pause, _RETRY_MOST)
            else:
                if isinstance(reason, NoProcess):  # there was one: this is another supervisor, or one with a short memory
                    return Lost("its supervisor ended, or has forgotten it")
                return reason  # type: ignore[no-any-return]

    async def ask(self, path: str, target: str, message: Any, timeout: float) -> Any:
        """Call a socket whose path is known: a supervisor's door. Raises as `Ref.call` does."""
        self._check_around()
        deadline = time.monotonic() + timeout
        try:
            link = await self.link(path, target, timeout, deadline)
            return await link.call(message, timeout, deadline, None, None)
        except LinkLost:
            self.check()
            raise ActorDown(target, Lost("nobody answers at its socket")) from None

    async def close(self) -> None:
        """End every link. Whatever waits gets its error."""
        self.closed = True
        reasons = list(self._reasons.values())
        for task in reasons:
            task.cancel()
        await self._links.close()
        await asyncio.gather(*reasons, return_exceptions=True)
