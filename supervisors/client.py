"""The client: how a host process, your service, reaches a tree. `embed` boots a node of its own, `attach` finds one.

Used in one event loop of the host, asyncio's or uvloop's. The host never forks and never imports Thespian: the node is a
clean process of its own, and all that the host holds is a socket to each server it calls. `supervisors.sync` is the same
without `await`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from supervisors.errors import ClientClosed, NodeDown, NodeError, StartFailed
from supervisors.exchange import ROOT_DOOR, Exchange
from supervisors.exits import ExitReason, Lost
from supervisors.node.config import NodeConfig
from supervisors.process.procfs import RUN_TOKEN, read_stat
from supervisors.rundir import RunDirectory, named, unnamed
from supervisors.spec import MAIN_MODULE, ChildSpec, Supervisor, modules_of, walk
from supervisors.strategy import record_restart, within_intensity
from supervisors.tree import Branch, snapshot
from supervisors.wire.codec import pack, unpack
from supervisors.wire.vocabulary import Address, Names, StopTree

if TYPE_CHECKING:
    from types import TracebackType

    from supervisors.ref import Ref

__all__ = ["Client", "attach", "embed"]

MOST_NODES, NODE_WINDOW = 3, 30.0
"""An embedded node that was killed is booted again, but not more often than that within so many seconds."""
_LOOK = 0.25
_STILL_STOPPED = 2

log = logging.getLogger("supervisors.client")


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
    return Client(_Embedded(tree, name, allow, preload, log, log_level, start_timeout, stop_timeout))


def attach(name_or_directory: str | Path = "local") -> Client:
    """Find a node that runs already, by its name or its directory.

    `async with attach("orders") as client: ...`

    It rides out every restart of the tree. Raises on entry `NodeDown` when no such node runs.
    """
    text = str(name_or_directory)
    return Client(_Attached(Path(text) if os.sep in text else named(text), text))


class Client:
    """The way into one tree. Made by `embed` or `attach`, opened by `async with`, used in that event loop only."""

    def __init__(self, bond: _Embedded | _Attached) -> None:
        self._bond = bond
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> Self:
        if self._exchange is not None:
            raise ClientClosed("this client has been opened before; make another")
        directory = await self._bond.open()
        self._exchange = Exchange(directory, gone=self._bond.gone)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every link; an embedded node is stopped in order. Whatever waits gets its error. Idempotent."""
        if self._exchange is not None and not self._exchange.closed:
            await self._exchange.close()
            await self._bond.close()

    def ref(self, name: str) -> Ref:
        """A reference to the server that is registered under that name, now or later."""
        return self._open_exchange().ref(name)

    async def names(self, *, timeout: float = 5.0) -> dict[str, Address]:
        """Every registered name and where its server is at this moment."""
        found = await self.ref("registry").call(Names(), timeout=timeout)
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

    @property
    def directory(self) -> Path:
        """Where the node's sockets are; `attach` takes it."""
        return self._open_exchange().directory

    @property
    def node_pid(self) -> int | None:
        """The pid of the embedded node, or None when it runs by itself."""
        return self._bond.pid

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            raise ClientClosed("this client is not open: use it inside `async with`")
        self._exchange.check()
        return self._exchange


class _Attached:
    """The bond to a node that somebody else runs."""

    pid: int | None = None

    def __init__(self, directory: Path, wanted: str) -> None:
        self._directory = directory
        self._wanted = wanted

    async def open(self) -> Path:
        if not (self._directory / "lock").exists():
            raise NodeDown(
                f"no node runs as {self._wanted!r} ({self._directory} is not there); "
                f"start one with: python -m supervisors.node package.module:TREE --name {self._wanted}"
            )
        return self._directory

    def gone(self) -> str | None:
        return None if self._directory.exists() else f"the node {self._wanted!r} has ended"

    def expect_end(self) -> None:
        """Nobody here boots it again anyway."""

    async def close(self) -> None:
        """Nothing is held but links."""


class _Embedded:
    """The bond to a node of one's own: boots it, boots it again when it is killed, ends it."""

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of `embed`
        self,
        tree: Supervisor,
        name: str,
        allow: tuple[str, ...],
        preload: tuple[str, ...],
        log_to: str | Path | None,
        log_level: str,
        start_timeout: float,
        stop_timeout: float,
    ) -> None:
        self._tree = tree
        self._name = name
        self._allow = frozenset(allow)
        self._modules = sorted(modules_of(tree) | self._allow | set(preload))
        self._log_to = log_to
        self._log_level = log_level
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._directory = unnamed()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: asyncio.Task[None] | None = None
        self._boots: tuple[float, ...] = ()
        self._ending = False
        self._problem: str | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def gone(self) -> str | None:
        return self._problem

    def expect_end(self) -> None:
        self._ending = True
        self._problem = "the node was told to stop"

    async def open(self) -> Path:
        if RUN_TOKEN in os.environ and sys.modules.get(MAIN_MODULE) is not None:
            raise NodeError("this script starts a node when it is imported; put that part under: if __name__ == '__main__'")
        await self._boot()
        self._guard = asyncio.get_running_loop().create_task(self._watch_over())
        return self._directory

    async def close(self) -> None:
        self._ending = True
        if self._guard is not None:
            self._guard.cancel()
            with suppress(asyncio.CancelledError):
                await self._guard
        await self._end(self._stop_timeout)

    async def _boot(self) -> None:
        """Start the node process and wait until its tree is up. Raises `StartFailed`; nothing is left then."""
        self._boots = record_restart(self._boots, time.monotonic(), NODE_WINDOW)
        config = NodeConfig(
            tree=self._tree,
            directory=str(self._directory),
            name=self._name,
            allowed=self._allow,
            owner=os.getpid(),
            log_level=self._log_level,
            stop_timeout=self._stop_timeout,
        )
        uses_main = any(each.server.startswith(f"{MAIN_MODULE}:") for each in walk(self._tree))
        message = pack(
            {
                "path": [entry or os.getcwd() for entry in sys.path],  # noqa: PTH109 - a str is what sys.path has
                "main": getattr(sys.modules["__main__"], "__file__", None) if uses_main else None,
                "modules": self._modules,
                "config": pack(config),
            }
        )
        ours, theirs = os.pipe()
        output: IO[bytes] | None = None
        try:
            if self._log_to is not None:
                output = open(self._log_to, "ab")  # noqa: PTH123, SIM115, ASYNC230 - closed below; the node keeps its own
            self._process = subprocess.Popen(  # noqa: ASYNC220 - some milliseconds, no shell, our own interpreter
                [sys.executable, "-m", "supervisors.node", "--embedded", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=output or sys.__stderr__,
                stderr=output,
                pass_fds=[theirs],
                start_new_session=True,  # Ctrl-C at a terminal is the host's to handle
                env={**os.environ, RUN_TOKEN: secrets.token_hex(16)},
            )
        finally:
            os.close(theirs)
            if output is not None:
                output.close()
        try:
            reason = await self._first_word(ours, message)
        except BaseException:
            await self._end(0.0)
            raise
        if reason is not None:
            await self._end(5.0)
            raise StartFailed(f"node {self._name!r}", reason)

    async def _first_word(self, descriptor: int, message: bytes) -> ExitReason | None:
        """Configure the node; None when its tree is up, else why it is not."""
        assert self._process is not None  # noqa: S101 - just made
        assert self._process.stdin is not None  # noqa: S101
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                await asyncio.to_thread(_feed, self._process.stdin, message)
                size = int.from_bytes(await reader.readexactly(4), "big")
                said = unpack(await reader.readexactly(size))
        except TimeoutError:
            return Lost(f"it was not up within {self._start_timeout:g} s")
        except (asyncio.IncompleteReadError, OSError):
            return Lost("it ended without a word; its log says more")
        finally:
            transport.close()
        return None if "ready" in said else said["failed"]

    async def _watch_over(self) -> None:
        """Notice that the node ended, or was stopped by a signal, and boot it again."""
        while True:
            assert self._process is not None  # noqa: S101 - booted before
            ended = await self._until_ended(self._process.pid)
            if self._ending:
                return
            self._process.wait()
            if not within_intensity(self._boots, MOST_NODES):
                self._problem = f"the node ended {len(self._boots)} times in {NODE_WINDOW:g} s (last: {ended})"
                log.error("%s; giving up", self._problem)
                return
            log.warning("the node %s; booting it again", ended)
            try:
                await self._boot()
            except (StartFailed, OSError) as error:
                self._problem = f"the node could not be booted again: {error}"
                log.error("%s", self._problem)  # noqa: TRY400 - one sentence
                return

    async def _until_ended(self, pid: int) -> str:
        """Wait for the node's end; a node that a signal has stopped is killed. Returns what happened."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(pid)
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        stopped, happened = 0, "ended"
        try:
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await ended.wait()
                stat = read_stat(pid)
                stopped = stopped + 1 if stat is not None and stat.stopped else 0
                if stopped == _STILL_STOPPED:
                    happened = "was stopped by a signal and did not run any more"
                    os.kill(pid, signal.SIGKILL)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        return happened

    async def _end(self, patience: float) -> None:
        """Tell the node to stop; after `patience` seconds it is killed, and its tree with it."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            if not await self._ended_within(process, patience):
                process.kill()
                await self._ended_within(process, 5.0)
        process.wait()
        self._process = None
        RunDirectory(self._directory).remove()

    async def _ended_within(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        if process.poll() is not None:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._until_ended(process.pid)
        except TimeoutError:
            return False
        return True


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError), pipe:
        pipe.write(data)
