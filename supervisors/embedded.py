"""A node of one's own: the client's bond to it. Boots it, boots it again when it is killed, ends it.

Used in the client's event loop, in the host process. The node is a clean process, told what to run through its standard
input; what holds the two together is that the node watches its owner, and this module watches the node.
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from supervisors.errors import NodeError, StartFailed
from supervisors.exits import ExitReason, Lost
from supervisors.node.config import NodeConfig
from supervisors.process.procfs import RUN_TOKEN, read_stat
from supervisors.rundir import RunDirectory, unnamed
from supervisors.spec import MAIN_MODULE, Supervisor, modules_of, walk
from supervisors.strategy import record_restart, within_intensity
from supervisors.wire.codec import pack, unpack

__all__ = ["Embedded", "Options"]

MOST_NODES, NODE_WINDOW = 3, 30.0
"""An embedded node that was killed is booted again, but not more often than that within so many seconds."""
_LOOK = 0.25
_STILL_STOPPED = 2
_LAST_WORD = 5.0

log = logging.getLogger("supervisors.client")


@dataclass(frozen=True, slots=True)
class Options:
    """What `embed` can be told about its node."""

    name: str
    allow: tuple[str, ...]
    preload: tuple[str, ...]
    log: str | Path | None
    log_level: str
    start_timeout: float
    stop_timeout: float


class Embedded:
    """The bond to an embedded node. `open` and `close` are called once each, by the client."""

    def __init__(self, tree: Supervisor, options: Options) -> None:
        self._tree = tree
        self._options = options
        self._directory = unnamed()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: asyncio.Task[None] | None = None
        self._boots: tuple[float, ...] = ()
        self._ending = False
        self._problem: str | None = None

    @property
    def pid(self) -> int | None:
        """Of the node that runs now."""
        return None if self._process is None else self._process.pid

    def gone(self) -> str | None:
        """Why there is no node and will be none, in one sentence, or None."""
        return self._problem

    def expect_end(self) -> None:
        """The node has been told to stop: it is not to be booted again."""
        self._ending = True

    async def open(self) -> Path:
        """Boot the node. Raises `StartFailed` when its tree does not come up; nothing is left then."""
        if RUN_TOKEN in os.environ and sys.modules.get(MAIN_MODULE) is not None:
            raise NodeError("this script starts a node when it is imported; put that part under: if __name__ == '__main__'")
        await self._boot()
        self._guard = asyncio.get_running_loop().create_task(self._watch_over())
        return self._directory

    async def close(self) -> None:
        """Stop the node in order, or kill it when it takes too long."""
        self._ending = True
        try:
            if self._guard is not None:
                self._guard.cancel()
                await asyncio.gather(self._guard, return_exceptions=True)
        finally:
            await self._end(self._options.stop_timeout)

    # -- the beginning -------------------------------------------------------------------------------------------------

    async def _boot(self) -> None:
        """Start the node process and wait until its tree is up. Raises `StartFailed`; nothing is left then."""
        self._boots = record_restart(self._boots, time.monotonic(), NODE_WINDOW)
        ours, theirs = os.pipe()
        try:
            self._process = self._spawn(theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        ended = asyncio.create_task(_until_ended(self._process.pid))  # also kills one that is stopped while it boots
        try:
            reason = await self._first_word(self._process, ours)
        except BaseException:
            await self._end(0.0)
            raise
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        if reason is not None:
            await self._end(_LAST_WORD)
            raise StartFailed(f"node {self._options.name!r}", reason)

    def _spawn(self, notify: int) -> subprocess.Popen[bytes]:
        output: IO[bytes] | None = None
        if self._options.log is not None:
            output = open(self._options.log, "ab")  # noqa: PTH123, SIM115 - closed below; the node keeps its own
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "supervisors.node", "--embedded", str(notify)],
                stdin=subprocess.PIPE,
                stdout=output or sys.__stderr__,
                stderr=output,
                pass_fds=[notify],
                start_new_session=True,  # Ctrl-C at a terminal is the host's to handle
                env={**os.environ, RUN_TOKEN: secrets.token_hex(16)},
            )
        finally:
            if output is not None:
                output.close()

    def _configuration(self) -> bytes:
        """What the node reads from its standard input: first what it needs to understand the rest."""
        options = self._options
        config = NodeConfig(
            tree=self._tree,
            directory=str(self._directory),
            name=options.name,
            allowed=frozenset(options.allow),
            owner=os.getpid(),
            log_level=options.log_level,
            stop_timeout=options.stop_timeout,
        )
        uses_main = any(each.server.startswith(f"{MAIN_MODULE}:") for each in walk(self._tree))
        return pack(
            {
                "path": [entry or os.getcwd() for entry in sys.path],  # noqa: PTH109 - a str is what sys.path has
                "main": getattr(sys.modules["__main__"], "__file__", None) if uses_main else None,
                "modules": sorted(modules_of(self._tree) | {*options.allow, *options.preload}),
                "config": pack(config),
            }
        )

    async def _first_word(self, process: subprocess.Popen[bytes], descriptor: int) -> ExitReason | None:
        """Configure the node; None when its tree is up, else why it is not."""
        assert process.stdin is not None  # noqa: S101 - a pipe
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        message = self._configuration()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            async with asyncio.timeout(self._options.start_timeout):
                await asyncio.to_thread(_feed, process.stdin, message)
                size = int.from_bytes(await reader.readexactly(4), "big")
                said = unpack(await reader.readexactly(size))
        except TimeoutError:
            return Lost(f"it was not up within {self._options.start_timeout:g} s")
        except (asyncio.IncompleteReadError, OSError):
            return Lost("it ended without a word; its log says more")
        finally:
            transport.close()
        return None if "ready" in said else said["failed"]

    # -- the watch -----------------------------------------------------------------------------------------------------

    async def _watch_over(self) -> None:
        """Until the client is closed: notice that the node has ended, or was stopped by a signal, and boot it again."""
        try:
            while self._problem is None:
                await self._once_ended()
        except Exception as error:
            self._problem = f"the node is not watched any more: {type(error).__name__}: {error}"
            log.exception("%s", self._problem)

    async def _once_ended(self) -> None:
        assert self._process is not None  # noqa: S101 - booted before
        ended = await _until_ended(self._process.pid)
        self._process.wait()
        if self._ending:
            self._problem = "the node was told to stop"
            return
        while True:
            recent = record_restart(self._boots, time.monotonic(), NODE_WINDOW)[:-1]
            if not within_intensity(recent, MOST_NODES):
                self._problem = f"the node ended {len(recent)} times in {NODE_WINDOW:g} s (last: {ended})"
                log.error("%s; giving up", self._problem)
                return
            log.warning("the node %s; booting it again", ended)
            try:
                await self._boot()
                return
            except (StartFailed, OSError) as error:
                if not isinstance(error, StartFailed) or not isinstance(error.reason, Lost):
                    self._problem = f"the node could not be booted again: {error}"
                    log.error("%s", self._problem)  # noqa: TRY400 - one sentence
                    return
                ended = f"did not come up again: {error.reason}"  # something has killed it on the way

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _end(self, patience: float) -> None:
        """Tell the node to stop; after `patience` seconds it is killed, and its tree with it."""
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.terminate()
                await _ended_within(process, patience)
        finally:
            # Also when this is cancelled: what is left of the node does not outlive the client.
            process.kill()
            process.wait()
            with suppress(OSError):
                cast("IO[bytes]", process.stdin).close()  # a boot that was cancelled may not have come to feeding it
            self._process = None
            RunDirectory(self._directory).remove()


async def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _until_ended(process.pid)


async def _until_ended(pid: int) -> str:
    """Wait for the end of a child; one that a signal has stopped is killed. Returns what happened."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # the host lets the kernel reap its children
        return "ended"
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


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError), pipe:
        pipe.write(data)
