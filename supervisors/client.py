"""The client: how a host process, your service, reaches a tree. `embed` boots a node of its own, `attach` finds one.

Used in one event loop of the host, asyncio's or uvloop's. The host never forks and never imports Thespian: the node is a
clean process of its own, and all that the host holds is a socket to each server it calls. `supervisors.sync` is the same
without `await`.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from supervisors.embedded import Embedded, Options
from supervisors.errors import ClientClosed, NodeDown
from supervisors.exchange import REGISTRY, ROOT_DOOR, Exchange
from supervisors.rundir import named
from supervisors.spec import ChildSpec, Supervisor
from supervisors.tree import Branch, snapshot
from supervisors.wire.peer import LinkStatistics
from supervisors.wire.vocabulary import Address, Names, StopTree

if TYPE_CHECKING:
    from types import TracebackType

    from supervisors.ref import Ref

__all__ = ["Client", "attach", "embed"]


def embed(  # noqa: PLR0913 - what a node can be told, all but the tree by keyword
    tree: Supervisor | ChildSpec,
    *,
    name: str = "local",
    allow: tuple[str, ...] = (),
    preload: tuple[str, ...] = (),
    log: str | Path | None = None,
    log_level: str = "warning",
    start_timeout: float = 30.0,
    stop_timeout: float = 10.0,
) -> Client:
    """Boot a node of one's own, and end it with the client.

    `async with embed(tree) as client: ...`

    The node dies with this process, however it dies; if the node is killed, it is booted again. Its lines go to `log`, or
    to this process's standard error. Raises on entry `StartFailed` when the tree does not come up within `start_timeout`.
    """
    if isinstance(tree, ChildSpec):
        tree = Supervisor("main", (tree,))
    return Client(Embedded(tree, Options(name, tuple(allow), tuple(preload), log, log_level, start_timeout, stop_timeout)))


def attach(name_or_directory: str | Path = "local") -> Client:
    """Find a node that runs already, by its name or its directory.

    `async with attach("orders") as client: ...`

    It rides out every restart of the tree. Raises on entry `NodeDown` when no such node runs.
    """
    text = str(name_or_directory)
    return Client(_Attached(Path(text) if os.sep in text else named(text), text))


class _Bond(Protocol):
    """What ties a client to its node."""

    @property
    def pid(self) -> int | None: ...

    async def open(self) -> Path: ...

    def gone(self) -> str | None: ...

    def expect_end(self) -> None: ...

    async def close(self) -> None: ...


class Client:
    """The way into one tree. Made by `embed` or `attach`, opened by `async with`, used in that event loop only."""

    def __init__(self, bond: _Bond) -> None:
        self._bond = bond
        self._opened_in: int | None = None
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> Self:
        if self._opened_in is not None:
            raise ClientClosed("this client has been opened before; make another")
        self._opened_in = os.getpid()
        directory = await self._bond.open()
        self._exchange = Exchange(directory, gone=self._bond.gone)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every link; an embedded node is stopped in order. Whatever waits gets its error. Idempotent.

        In a process that was forked from the client's it does nothing: links and node are its parent's.
        """
        if self._exchange is None or self._exchange.closed or self._opened_in != os.getpid():
            return
        try:
            await self._exchange.close()
        finally:
            await self._bond.close()

    def ref(self, name: str) -> Ref:
        """A reference to the server that is registered under that name, now or later."""
        return self._open_exchange().ref(name)

    async def names(self, *, timeout: float = 5.0) -> dict[str, Address]:
        """Every registered name and where its server is at this moment."""
        found = await self.ref(REGISTRY).call(Names(), timeout=timeout)
        return dict(found)

    async def tree(self, *, timeout: float = 5.0) -> Branch:
        """A snapshot of the whole tree; `str(...)` draws it."""
        exchange = self._open_exchange()
        return await snapshot(exchange, str(exchange.directory / ROOT_DOOR), timeout)

    async def stop_node(self, *, timeout: float = 5.0) -> None:
        """Tell the tree to stop in order, and its node to end. Returns when it has begun to."""
        exchange = self._open_exchange()
        self._bond.expect_end()
        await exchange.ask(str(exchange.directory / ROOT_DOOR), "the root supervisor", StopTree(), timeout)

    def statistics(self) -> LinkStatistics:
        """The counters of this client's ends of all its links; a server's are in `Ref.statistics`."""
        return self._open_exchange().statistics()

    @property
    def directory(self) -> Path:
        """Where the node's sockets are; `attach` takes it."""
        return self._open_exchange().directory

    @property
    def node_pid(self) -> int | None:
        """The pid of the node, or None when it has ended."""
        return self._bond.pid

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            raise ClientClosed("this client is not open: use it inside `async with`")
        self._exchange.check()
        return self._exchange


class _Attached:
    """The bond to a node that somebody else runs. The node holds a lock on its directory for as long as it lives."""

    def __init__(self, directory: Path, wanted: str) -> None:
        self._directory = directory
        self._wanted = wanted

    @property
    def pid(self) -> int | None:
        return _holder(self._directory / "lock")

    async def open(self) -> Path:
        if self.pid is None:
            raise NodeDown(
                f"no node runs as {self._wanted!r} (in {self._directory}); "
                f"start one with: python -m supervisors.node package.module:TREE --name {self._wanted}"
            )
        return self._directory

    def gone(self) -> str | None:
        return f"the node {self._wanted!r} has ended" if self.pid is None else None

    def expect_end(self) -> None:
        """Nobody here boots it again anyway."""

    async def close(self) -> None:
        """Nothing is held but links."""


_FLOCK = struct.Struct("hhqqi4x")


def _holder(lock: Path) -> int | None:
    """The pid of the process that holds a POSIX lock on that file. Asks only: the lock is not touched."""
    try:
        with lock.open("rb") as file:
            question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, question))
    except OSError:
        return None
    return None if kind == fcntl.F_UNLCK else pid
