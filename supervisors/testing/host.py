"""Servers in the test's own event loop, behind real sockets and real links: no process, no node, no supervisor.

Everything between `Ref.call` and the handler is the real thing. What is missing is what processes are for: a handler that
computes stops the test, and nobody starts a server again that has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from supervisors.errors import CallTimeout, NotRegistered
from supervisors.exchange import Exchange
from supervisors.exits import ExitReason, Killed, NoProcess, Shutdown, for_callers
from supervisors.mailbox import TERMINATE_TIMEOUT, Mailbox
from supervisors.rundir import base_directory
from supervisors.wire.connection import Connection
from supervisors.wire.vocabulary import Address

if TYPE_CHECKING:
    from types import TracebackType

    from supervisors.ref import Ref
    from supervisors.server import Server

__all__ = ["Host", "Hosted"]

_SIGKILL = 9
_incarnations = itertools.count(1)


class Hosted:
    """One server that a `Host` runs. Made by `Host.start`."""

    def __init__(self, host: Host, server: Server, name: str, terminate_timeout: float | None) -> None:
        incarnation = next(_incarnations)
        directory = host.exchange.directory
        self.server = server
        self.address = Address(
            f"test/{name}", str(directory / f"s{incarnation}"), os.getpid(), incarnation, str(directory / "root")
        )
        self.ref: Ref = host.exchange.ref(name)
        self.ended: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()
        """done when the server has ended, with the reason, a traceback included"""
        self.mailbox = Mailbox(
            server,
            self.address.place,
            host.exchange,
            on_ending=self._ending,
            on_end=self._end,
            terminate_timeout=terminate_timeout,
        )
        self._connections: set[Connection] = set()
        self._listener: asyncio.AbstractServer | None = None

    async def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run `init`, then listen. Raises what `init` raises."""
        await self.mailbox.start(args, kwargs)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            lambda: Connection(self.mailbox, self._connections), self.address.path, backlog=512
        )

    async def stop(self, reason: ExitReason | None = None) -> ExitReason:
        """Stop it in order, as its supervisor would, and wait for its end."""
        self.mailbox.stop(reason or Shutdown("by the test"))
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        """Be gone, as after SIGKILL: nobody is answered, `terminate` is not called."""
        self.mailbox.abandon(Killed(_SIGKILL))
        for connection in list(self._connections):
            connection.abort()
        self._gone(Killed(_SIGKILL))

    def _ending(self, reason: ExitReason) -> None:
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.go_away(reason)

    def _end(self, reason: ExitReason) -> None:
        for connection in list(self._connections):
            connection.close()
        self._gone(reason)

    def _gone(self, reason: ExitReason) -> None:
        if self._listener is not None:
            self._listener.close()
        if not self.ended.done():
            self.ended.set_result(reason)


class Host:
    """Runs servers, in the running loop: `async with Host() as host: counter = await host.start(Counter(), "counter")`."""

    exchange: _LocalExchange

    async def __aenter__(self) -> Self:
        self.exchange = _LocalExchange(Path(tempfile.mkdtemp(prefix="sup-t-", dir=base_directory())))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for hosted in reversed(self.exchange.hosted):
                if not hosted.ended.done():
                    await hosted.stop()
            await self.exchange.close()
        finally:
            shutil.rmtree(self.exchange.directory, ignore_errors=True)

    async def start(
        self,
        server: Server,
        name: str = "server",
        *args: Any,
        terminate_timeout: float | None = TERMINATE_TIMEOUT,
        **kwargs: Any,
    ) -> Hosted:
        """Run the server under that name, `args` and `kwargs` for its `init`. Raises what `init` raises.

        A second one under the same name takes the name over, as a restarted one does.
        """
        hosted = Hosted(self, server, name, terminate_timeout)
        await hosted.begin(args, kwargs)
        self.exchange.hosted.append(hosted)
        return hosted

    def ref(self, name: str) -> Ref:
        """A reference to the server of that name, whether or not it is there yet."""
        return self.exchange.ref(name)


class _LocalExchange(Exchange):
    """Finds the servers of one host, and knows how they ended."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.hosted: list[Hosted] = []

    async def resolve(self, name: str, timeout: float, deadline: float) -> Address:  # noqa: ARG002 - it knows at once
        self._check_around()
        for hosted in reversed(self.hosted):
            if hosted.address.id == name:
                if hosted.ended.done():
                    break
                return hosted.address
        raise NotRegistered(name)

    async def await_down(self, address: Address, timeout: float, deadline: float) -> ExitReason:
        for hosted in self.hosted:
            if hosted.address == address:
                await asyncio.wait([hosted.ended], timeout=max(0.0, deadline - time.monotonic()))
                if not hosted.ended.done():
                    raise CallTimeout("its end", timeout)
                return for_callers(hosted.ended.result())
        return NoProcess()
