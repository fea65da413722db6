"""The mailbox: runs one `Server` in one event loop. It owns the order of messages, the bounds, the crash and the stop.

Called only in the server's event loop, but for `post`. It knows no socket: whoever sends is a `Sink`, which is how a link,
and any other runtime, gets its answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from supervisors.envelope import Context, Credit, Entry, Sink, Statistics, Timer, current_context
from supervisors.errors import ActorDown, Overloaded, Refused, WireError
from supervisors.exits import Crash, ExitReason
from supervisors.wire.vocabulary import GetStatistics

if TYPE_CHECKING:
    from supervisors.exchange import Exchange
    from supervisors.ref import Ref
    from supervisors.server import Server

__all__ = ["Mailbox"]


class Mailbox:
    """Runs a server: `start`, then messages, then `stop` or a crash; `on_end` is called exactly once, when all is answered."""

    def __init__(self, server: Server, place: str, exchange: Exchange, on_end: Callable[[ExitReason], None]) -> None:
        self.server = server
        self.place = place
        self.exchange = exchange
        self.log = logging.getLogger(place)
        self.loop = asyncio.get_running_loop()
        self.ending: ExitReason | None = None
        self._on_end = on_end
        self._waiting: deque[Entry] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._consumers: set[asyncio.Task[None]] = set()
        self._running: dict[tuple[int, int], Entry] = {}
        self._streams: dict[tuple[int, int], Entry] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._finish: asyncio.Task[None] | None = None
        self._handled = self._refused = self._overloaded = self._expired = self._cancelled = 0
        server._mailbox = self

    @property
    def context(self) -> Context:
        """Of the message that is being handled."""
        return current_context.get()

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run `init`. Raises what it raises; the server is up when this returns."""
        await self.server.init(*args, **kwargs)

    def stop(self, reason: ExitReason) -> None:
        """Begin an orderly end: nothing waits or comes in any more, what runs may finish, then `terminate`."""
        if self.ending is None:
            self.ending = reason
            self._answer_waiting(reason)
            self._end_when_quiet()

    def crash(self, error: BaseException) -> None:
        """A handler raised: answer everybody, then `terminate`, then end with that reason."""
        reason = Crash.from_exception(error)
        if self._finish is not None:
            self.log.error("raised while it ended: %s\n%s", reason, reason.traceback)
            return
        self.ending = reason
        self._answer_waiting(reason)
        for entry in self._running.values():
            self._answer(entry, self._down(reason))
        self._running.clear()
        for task in self._consumers:
            if task is not asyncio.current_task():
                task.cancel()
        self._finish = self.loop.create_task(self._end(reason))

    def _answer_waiting(self, reason: ExitReason) -> None:
        waiting, self._waiting = self._waiting, deque()
        for entry in waiting:
            self._answer(entry, self._down(reason))
        for entry in list(self._streams.values()):
            self._answer(entry, self._down(reason))
            entry.cancelled = True
            if entry.task is not None:
                entry.task.cancel()
        self._streams.clear()

    def _end_when_quiet(self) -> None:
        if self.ending is not None and self._finish is None and self._busy == 0:
            self._finish = self.loop.create_task(self._end(self.ending))

    async def _end(self, reason: ExitReason) -> None:
        for watch in self._watches:
            watch.cancel()
        try:
            await self.server.terminate(reason)
        except Exception:
            self.log.exception("terminate raised")
        self._on_end(reason)

    def _down(self, reason: ExitReason) -> ActorDown:
        """What callers are told. The traceback is for the supervisor, not for them: it may quote what they must not see."""
        if isinstance(reason, Crash):
            reason = Crash(reason.error, reason.message)
        return ActorDown(self.place, reason)

    # -- messages in ---------------------------------------------------------------------------------------------------

    def call(self, sink: Sink, id_: int, context: Context, body: Any) -> None:
        """A call has arrived; `sink` gets its reply or its error."""
        if isinstance(body, GetStatistics):
            sink.reply(id_, self.statistics())
        else:
            self._put(Entry("call", body, sink, id_, context))

    def cast(self, sink: Sink | None, context: Context, body: Any) -> None:
        """A cast has arrived."""
        self._put(Entry("cast", body, sink, 0, context))

    def post(self, body: Any) -> None:
        """A message to oneself, from any thread."""
        self.loop.call_soon_threadsafe(self._put, Entry("info", body))

    def send_after(self, seconds: float, body: Any) -> Timer:
        """A timer; due ones are handled in the order of their times."""
        entry = Entry("timer", body)
        return Timer(self.loop.call_later(seconds, self._put, entry), entry)

    def open_stream(self, sink: Sink, id_: int, context: Context, body: Any, credit: int) -> None:
        """A stream is asked for; it runs beside the mailbox."""
        entry = Entry("stream", body, sink, id_, context)
        if self.ending is not None:
            self._answer(entry, self._down(self.ending))
        elif len(self._streams) >= self.server.stream_limit:
            self._overloaded += 1
            self._answer(entry, Overloaded(self.place, self.server.stream_limit))
        else:
            entry.credit = Credit(credit)
            self._streams[id(sink), id_] = entry
            entry.task = self.loop.create_task(self._run_stream(entry))

    def add_credit(self, sink: Sink, id_: int, count: int) -> bool:
        """The reader of a stream takes more; False when there is no such stream."""
        entry = self._streams.get((id(sink), id_))
        if entry is None or entry.credit is None:
            return False
        entry.credit.add(count)
        return True

    def cancel(self, sink: Sink, id_: int) -> None:
        """The caller has gone. What waits never starts; a stream is closed; what runs is left, unless the class asks."""
        key = (id(sink), id_)
        stream = self._streams.pop(key, None)
        if stream is not None:
            stream.cancelled = True
            if stream.task is not None:
                stream.task.cancel()
            return
        running = self._running.get(key)
        if running is not None:
            running.cancelled = True
            if self.server.cancel_running and running.task is not None:
                running.task.cancel()
            return
        for entry in self._waiting:
            if entry.sink is sink and entry.id == id_:
                entry.cancelled = True

    def closed(self, sink: Sink) -> None:
        """A connection is gone: nobody waits for what came through it. Casts of it are still handled."""
        ids = [id_ for owner, id_ in (*self._streams, *self._running) if owner == id(sink)]
        ids += [entry.id for entry in self._waiting if entry.sink is sink and entry.kind == "call"]
        for id_ in ids:
            self.cancel(sink, id_)

    def monitor(self, target: Ref) -> None:
        """Post `Down` when the target ends."""

        async def watch() -> None:
            self._put(Entry("info", await target.monitor()))

        task = self.loop.create_task(watch())
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def statistics(self) -> Statistics:
        """The counters of this moment."""
        return Statistics(
            waiting=len(self._waiting),
            running=self._busy,
            streams=len(self._streams),
            handled=self._handled,
            refused=self._refused,
            overloaded=self._overloaded,
            expired=self._expired,
            cancelled=self._cancelled,
        )

    # -- messages through ------------------------------------------------------------------------------------------------

    def _put(self, entry: Entry) -> None:
        if self.ending is not None:
            self._answer(entry, self._down(self.ending))
            return
        if len(self._waiting) >= self.server.mailbox_limit and entry.sink is not None:
            # What the system itself says (infos, timers) is bounded where it is made and is never shed.
            self._overloaded += 1
            self._answer(entry, Overloaded(self.place, self.server.mailbox_limit))
            return
        self._waiting.append(entry)
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._consumers) < self.server.concurrency:
            task = self.loop.create_task(self._consume())
            self._consumers.add(task)
            task.add_done_callback(self._consumers.discard)

    async def _consume(self) -> None:
        """Handle one message after the other, for ever. `concurrency` of these run side by side; each starts when needed."""
        while True:
            while not self._waiting:
                waiter = self.loop.create_future()
                self._idle.append(waiter)
                await waiter
            entry = self._waiting.popleft()
            if entry.cancelled:
                self._cancelled += 1
                continue
            deadline = entry.context.deadline
            if deadline is not None and deadline < time.monotonic():
                self._expired += 1  # its caller has gone with CallTimeout; work that nobody waits for never starts
                continue
            current_context.set(entry.context)
            self._busy += 1
            try:
                await self._handle(entry)
                self._handled += 1
            except asyncio.CancelledError:
                if not entry.is_cancelled():
                    raise  # the mailbox itself is being ended
                cast("asyncio.Task[None]", entry.task).uncancel()
                self._cancelled += 1
            except BaseException as error:  # noqa: BLE001 - crash means crash, SystemExit too
                if entry.kind == "call":
                    self._answer(entry, self._down(Crash.from_exception(error)))
                self.crash(error)
                return
            finally:
                self._busy -= 1
                if self.ending is not None:
                    self._end_when_quiet()

    async def _handle(self, entry: Entry) -> None:
        """One message, by its kind. What it raises is the server's crash."""
        server = self.server
        try:
            if entry.kind == "call":
                key = (id(entry.sink), entry.id)
                entry.task = asyncio.current_task()
                self._running[key] = entry
                try:
                    value = await server.handle_call(entry.body)
                finally:
                    self._running.pop(key, None)
                self._reply(entry, value)
            elif entry.kind == "cast":
                await server.handle_cast(entry.body)
            elif entry.kind == "info":
                await server.handle_info(entry.body)
            else:
                await server.handle_timer(entry.body)
        except Refused as error:
            self._refused += 1
            self._answer(entry, error)

    async def _run_stream(self, entry: Entry) -> None:
        sink, credit = entry.sink, entry.credit
        assert sink is not None  # noqa: S101 - open_stream made both
        assert credit is not None  # noqa: S101
        current_context.set(entry.context)
        source = None
        try:
            source = self.server.handle_stream(entry.body)
            seq = 0
            async for item in source:
                await credit.take()
                sink.item(entry.id, seq, item)
                seq += 1
            self._handled += 1
            sink.end(entry.id, seq)
        except (Refused, WireError) as error:
            self._refused += 1
            self._answer(entry, error)
        except asyncio.CancelledError:
            self._cancelled += 1
            if not entry.cancelled:
                raise
        except BaseException as error:  # noqa: BLE001 - crash means crash
            self.crash(error)
        finally:
            self._streams.pop((id(sink), entry.id), None)
            close = getattr(source, "aclose", None)
            if close is not None:
                with suppress(Exception):
                    await close()

    def _reply(self, entry: Entry, value: Any) -> None:
        if entry.cancelled or entry.sink is None:
            return
        try:
            entry.sink.reply(entry.id, value)
        except WireError as error:  # the handler's work is done; only its value cannot travel, and the caller is told why
            self._refused += 1
            entry.sink.error(entry.id, error)

    def _answer(self, entry: Entry, error: BaseException) -> None:
        if entry.sink is not None and entry.kind != "cast" and not entry.cancelled:
            entry.sink.error(entry.id, error)
