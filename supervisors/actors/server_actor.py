"""The actor that hosts one `Server`. Its first thread is Thespian's and only ever hears "stop"; all else is in a side thread.

The side thread runs uvloop with the mailbox and the links. This actor never creates a child: it has more than one thread.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import uvloop
from thespian.actors import Actor, ActorExitRequest

from supervisors.actors import logs
from supervisors.actors.birth_record import BirthRecord, take
from supervisors.actors.messages import StopActor
from supervisors.actors.report import send_exit, send_report
from supervisors.errors import CallFailed, NodeError, Refused
from supervisors.exchange import REGISTRY, Exchange
from supervisors.exits import Crash, ExitReason, Shutdown, is_orderly
from supervisors.mailbox import Mailbox
from supervisors.process.birth import disarm, restore_fatal_signals
from supervisors.server import Server
from supervisors.spec import ChildSpec
from supervisors.strategy import should_restart
from supervisors.wire.connection import Connection
from supervisors.wire.link import LinkLost
from supervisors.wire.vocabulary import Address, Register, Unregister

__all__ = ["ServerActor"]

SWITCH_INTERVAL = 0.0005
"""Seconds; with Python's own 0.005 a handler that computes delays Thespian's thread by 60 ms and more."""
_FLUSH_TIMEOUT = 0.5
_REGISTER_TIMEOUT = 2.0
_LONG = 10 * 365 * 86400.0


class ServerActor(Actor):
    """Thespian's side: born, told to stop, gone."""

    def __init__(self) -> None:
        super().__init__()
        restore_fatal_signals()
        record = take()
        disarm()
        os.setpgid(0, 0)  # what this server starts is killed with it
        sys.setswitchinterval(SWITCH_INTERVAL)
        logs.restore()
        self._life = _Life(record)
        self._life.start()
        if record.surroundings.cgroup is not None:
            # The kernel takes some milliseconds for it; meanwhile the side thread runs `init`, and the process group has to do.
            record.surroundings.cgroup.join()

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802, ARG002 - Thespian's name and signature
        """Called in the first thread. Never raises: Thespian would run it a second time."""
        if isinstance(message, StopActor):
            self._life.stop(message.detail)
        elif isinstance(message, ActorExitRequest):
            # A SIGTERM. Thespian leaves its loop after this; the side thread, no daemon, ends in order and exits.
            self._life.stop("SIGTERM")


class _Life:
    """The side thread: one loop, one mailbox, from `init` to the last report."""

    def __init__(self, record: BirthRecord) -> None:
        assert isinstance(record.spec, ChildSpec)  # noqa: S101 - supervisors have the other actor
        self._record = record
        self._spec = record.spec
        self._loop = uvloop.new_event_loop()
        self._mailbox: Mailbox | None = None
        self._stop_detail: str | None = None
        self._connections: set[Connection] = set()
        self._listener: asyncio.AbstractServer | None = None
        self._path = self._socket_path()
        self._thread = threading.Thread(target=self._run, name=f"loop of {record.place}")

    def start(self) -> None:
        self._thread.start()

    def stop(self, detail: str) -> None:
        """Called in Thespian's thread."""
        self._stop_detail = detail
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop_now)

    def _stop_now(self) -> None:
        if self._mailbox is not None and self._stop_detail is not None:
            self._mailbox.stop(Shutdown(self._stop_detail))

    def _socket_path(self) -> str:
        directory = self._record.surroundings.directory
        fixed = self._spec.name == REGISTRY
        return str(directory / (REGISTRY if fixed else f"s{os.getpid()}"))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._beginning = self._loop.create_task(self._begin())
            self._loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - SystemExit in a callback leaves the loop this way
            self._exit(Crash.from_exception(error))
        self._exit(Crash("LoopStopped", "something in this server stopped its event loop"))  # it would be alive and deaf

    async def _begin(self) -> None:
        record, spec = self._record, self._spec
        try:
            server = _load(spec.server, record.surroundings.allowed)()
            exchange = Exchange(record.surroundings.directory)
            mailbox = Mailbox(server, record.place, exchange, on_ending=self._ending, on_end=self._ended)
            mailbox.address = Address(record.place, self._path, os.getpid(), record.incarnation, record.door)
            await mailbox.start(spec.args, spec.kwargs)
            with suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108 - of an earlier process with this pid or place
            # Kept: a listener that nobody refers to is collected, and with it the door of a living server.
            self._listener = await self._loop.create_unix_server(
                lambda: Connection(mailbox, self._connections), self._path, backlog=512
            )
            if spec.name is not None and spec.name != REGISTRY:
                await self._register(exchange, spec.name)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the start has failed and the supervisor decides
            self._exit(Crash.from_exception(error))
        self._mailbox = mailbox
        send_report(record.report, {"ready": self._path})
        self._stop_now()

    # -- the name ----------------------------------------------------------------------------------------------------

    async def _register(self, exchange: Exchange, name: str) -> None:
        """Hold the name from now on. Returns when it is held, or when the registry does not answer: it will come back."""
        record = self._record
        address = Address(record.place, self._path, os.getpid(), record.incarnation, record.door)
        held = self._loop.create_future()
        self._holding = self._loop.create_task(self._hold(exchange, Register(name, address), held))
        done, _ = await asyncio.wait([held], timeout=_REGISTER_TIMEOUT)
        if done:
            held.result()

    async def _hold(self, exchange: Exchange, register: Register, held: asyncio.Future[None]) -> None:
        path = str(exchange.directory / REGISTRY)
        while True:
            try:
                link = await exchange.link(path, "the registry", _REGISTER_TIMEOUT, self._loop.time() + _REGISTER_TIMEOUT)
                async for _ in link.stream(register, _LONG, None, None):
                    if not held.done():
                        held.set_result(None)
            except Refused as error:
                if not held.done():
                    held.set_exception(error)
                    return
                logging.getLogger(self._record.place).error("the registry took the name %r away: %s", register.name, error)  # noqa: TRY400
            except (CallFailed, LinkLost, OSError):
                pass  # it is being restarted
            await asyncio.sleep(0.005)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _ending(self, reason: ExitReason) -> None:
        """Nothing is accepted any more: callers look for the next process at once. Called in the loop by the mailbox."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.go_away(reason)

    def _ended(self, reason: ExitReason) -> None:
        """Everybody has been answered and `terminate` has run. Called in the loop by the mailbox."""
        self._last = self._loop.create_task(self._leave(reason))

    async def _leave(self, reason: ExitReason) -> None:
        name = self._spec.name
        if name is not None and self._mailbox is not None and not should_restart(self._spec.restart, reason):
            with suppress(Exception):
                exchange = self._mailbox.exchange
                link = await exchange.link(str(exchange.directory / REGISTRY), "the registry", 0.1, self._loop.time() + 0.1)
                await link.cast(Unregister(name, self._record.incarnation), 0.1, self._loop.time() + 0.1, None, None)
        # The answers are written at the end of this turn of the loop; what the kernel does not take gets a moment.
        deadline = self._loop.time() + _FLUSH_TIMEOUT
        await asyncio.sleep(0)
        while any(each.unwritten for each in self._connections) and self._loop.time() < deadline:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.002)
        self._exit(reason)

    def _exit(self, reason: ExitReason) -> None:
        """Report and be gone. No cleanup of Thespian's: its way out would send messages and wait."""
        try:
            send_exit(self._record.report, {"exit": reason})
            with suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108
            logging.shutdown()
        finally:
            os._exit(0 if is_orderly(reason) else 1)


def _load(path: str, allowed: frozenset[str]) -> type[Server]:
    """The class of an import path, if its module is on the allow-list."""
    module_name, _, qualname = path.partition(":")
    if module_name not in allowed:
        problem = f"{module_name!r} is not among the modules that this node may import; start it with --allow {module_name}"
        raise NodeError(problem)
    found: Any = importlib.import_module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Server)):
        problem = f"{path} is no subclass of supervisors.Server"
        raise NodeError(problem)
    return found
