"""The mailbox: runs one `Server` in one event loop. It owns the order of messages, the bounds, the crash and the stop.

Called only in the server's event loop, but for `post`. It knows no socket: whoever sends is a `Sink`, which is how a link,
and any other runtime, gets its answers. Streams run beside it, in `outgoing`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supervisors.envelope import Context, Entry, Sink, Statistics, current_context
from supervisors.errors import ActorDown, Overloaded, Refused, WireError
from supervisors.exits import Crash, ExitReason, for_callers
from supervisors.outgoing import Outgoing
from supervisors.timers import Timer, Timers
from supervisors.wire.peer import LinkStatistics
from supervisors.wire.vocabulary import GetStatistics

if TYPE_CHECKING:
    from supervisors.exchange import Exchange
    from supervisors.ref import Ref
    from supervisors.server import Server
    from supervisors.wire.vocabulary import Address

__all__ = ["TERMINATE_TIMEOUT", "Mailbox"]

TERMINATE_TIMEOUT = 5.0
"""Seconds that a server has for its end, unless its child spec says otherwise: for cleaning up, and for `terminate`."""


class Mailbox:
    """Runs a server: `start`, then messages, then `stop` or a crash.

    `on_ending` is called when nothing is accepted any more, `on_end`, exactly once, when all is answered and `terminate` has
    run, or has not ended within `terminate_timeout` seconds (None: however long it takes).
    """

    def __init__(  # noqa: PLR0913 - what a server's surroundings are, the rare ones by keyword
        self,
        server: Server,
        place: str,
        exchange: Exchange,
        *,
        on_ending: Callable[[ExitReason], None],
        on_end: Callable[[ExitReason], None],
        terminate_timeout: float | None = TERMINATE_TIMEOUT,
    ) -> None:
        self.server = server
        self.place = place
        self.exchange = exchange
        self.log = logging.getLogger(place)
        self.loop = asyncio.get_running_loop()
        self.ending: ExitReason | None = None
        self._on_ending = on_ending
        self._on_end = on_end
        self._terminate_timeout = terminate_timeout
        self._waiting: deque[Entry] = deque()
        self._held: dict[Sink, list[Entry]] = {}
        self._idle: deque[asyncio.Future[Entry | None]] = deque()
        self._consumers: set[asyncio.Task[None]] = set()
        self._most_consumers = 0  # until `init` has returned
        self._running: set[Entry] = set()
        self._outgoing = Outgoing(server, place, self.crash)
        self._timers = Timers(self._put)
        self._watches: set[asyncio.Task[None]] = set()
        self._sinks: set[Sink] = set()
        self._past_links = LinkStatistics()
        self._busy = 0
        self._finish: asyncio.Future[None] | None = None
        self._handled = self._refused = self._overloaded = self._expired = self._cancelled = 0
        self.address: Address | None = None
        """where the server can be reached; set by whoever listens for it"""
        server._mailbox = self

    @property
    def context(self) -> Context:
        """Of the message that is being handled."""
        return current_context.get()

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run `init`. Raises what it raises; the server is up when this returns, and handles what it posted to itself."""
        await self.server.init(*args, **kwargs)
        self._most_consumers = self.server.concurrency
        for _ in range(len(self._waiting)):
            self._wake()

    def stop(self, reason: ExitReason) -> None:
        """Begin an orderly end: nothing waits or comes in any more, what runs may finish, then `terminate`."""
        if self.ending is None:
            self._begin_to_end(reason)
            self._end_when_quiet()

    def crash(self, error: BaseException) -> None:
        """A handler raised: answer everybody, then `terminate`, then end with that reason."""
        reason = Crash.from_exception(error)
        if self._finish is not None:
            self.log.error("raised while it ended: %s\n%s", reason, reason.traceback)
            return
        self._begin_to_end(reason)
        for entry in self._running:
            entry.answer(self._down(reason))
        for task in self._consumers:
            if task is not asyncio.current_task():
                task.cancel()
        self._finish = self.loop.create_task(self._end(reason))

    def _begin_to_end(self, reason: ExitReason) -> None:
        """Nothing is accepted any more, and nothing that waits is executed: all who wait are told so."""
        first, self.ending = self.ending is None, reason
        down = self._down(reason)
        waiting = [*self._waiting, *(entry for held in self._held.values() for entry in held)]
        self._waiting.clear()
        self._held.clear()
        for entry in waiting:
            entry.answer(down)
        self._outgoing.end_all(down)
        if first:
            self._on_ending(reason)

    def _end_when_quiet(self) -> None:
        if self.ending is not None and self._finish is None and self._busy == 0:
            self._finish = self.loop.create_task(self._end(self.ending))

    async def _end(self, reason: ExitReason) -> None:
        """What was interrupted cleans up, then `terminate` runs: both within the time limit."""
        tasks = [*self._watches, *self._consumers, *self._outgoing.tasks]
        for task in (*self._watches, *self._consumers):
            task.cancel()
        limit = asyncio.timeout(self._terminate_timeout)
        try:
            async with limit:
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.server.terminate(reason)
        except BaseException:  # it ends in any case, and for the reason that it had
            if limit.expired():
                self.log.error("did not end within %g s", self._terminate_timeout)  # noqa: TRY400 - no error of its code
            else:
                self.log.exception("terminate raised")
        self._on_end(reason)

    def abandon(self, reason: ExitReason) -> None:
        """End without a word, as a killed process does: nobody is answered, `terminate` is not called, nor `on_end`.

        For runtimes in which nothing else ends it.
        """
        self.ending = reason
        self._finish = self._finish or self.loop.create_future()
        for task in (*self._watches, *self._consumers):
            task.cancel()
        self._outgoing.abandon()

    def _down(self, reason: ExitReason) -> ActorDown:
        return ActorDown(self.place, for_callers(reason))

    # -- messages in ---------------------------------------------------------------------------------------------------

    def call(self, sink: Sink, id_: int, context: Context, body: Any) -> None:
        """A call has arrived; `sink` gets its reply or its error."""
        if type(body) is GetStatistics:
            sink.reply(id_, self.statistics())
        else:
            entry = Entry("call", body, sink, id_, context)
            idle = self._idle
            while idle and self.ending is None:
                waiter = idle.popleft()
                if not waiter.done():  # somebody has nothing to do: it begins with this at once
                    self._running.add(entry)
                    self._busy += 1
                    waiter.set_result(entry)
                    return
            self._put(entry)

    def cast(self, sink: Sink | None, context: Context, body: Any) -> None:
        """A cast has arrived."""
        self._put(Entry("cast", body, sink, 0, context))

    def open_stream(self, sink: Sink, id_: int, context: Context, body: Any, credit: int) -> None:
        """A stream is asked for; it runs beside the mailbox."""
        entry = Entry("stream", body, sink, id_, context)
        if self.ending is not None:
            entry.answer(self._down(self.ending))
        else:
            self._outgoing.open(entry, credit)

    def grant(self, sink: Sink, id_: int, total: int) -> None:
        """The reader of a stream takes that many items in all."""
        self._outgoing.grant(sink, id_, total)

    def post(self, body: Any) -> None:
        """A message to oneself, from any thread. Raises `Overloaded` when the mailbox is full."""
        if len(self._waiting) >= self.server.mailbox_limit:
            raise Overloaded(self.place, self.server.mailbox_limit)
        self.loop.call_soon_threadsafe(self._put, Entry("info", body))

    def send_after(self, seconds: float, body: Any) -> Timer:
        """A timer; due ones are handled in the order of their times."""
        return self._timers.start(seconds, body)

    def monitor(self, target: Ref) -> None:
        """Put `Down` into the mailbox when the target ends."""

        async def watch() -> None:
            try:
                down = await target.monitor()
            except Exception as error:  # noqa: BLE001 - what was to be told cannot be: crash means crash
                self.crash(error)
            else:
                self._put(Entry("info", down))

        task = self.loop.create_task(watch())
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    # -- callers that leave, or do not listen --------------------------------------------------------------------------

    def cancel(self, sink: Sink, id_: int) -> None:
        """The caller has gone. What waits never starts; a stream is closed; what runs is left, unless the class asks."""
        running = next((each for each in self._running if each.id == id_ and each.sink is sink), None)
        if running is not None:
            self._abandon(running)
        elif not self._outgoing.cancel(sink, id_):
            for index, entry in enumerate(self._waiting):
                if entry.id == id_ and entry.sink is sink:
                    del self._waiting[index]  # so that it takes nobody's place
                    self._cancelled += 1
                    break

    def _abandon(self, running: Entry) -> None:
        if not running.cancelled:
            running.cancelled = True
            if self.server.cancel_running and running.task is not None:
                running.task.cancel()

    def hold(self, sink: Sink) -> None:
        """That caller does not read its answers: what it has sent is put aside, in its order, until it does, or leaves."""
        held = [entry for entry in self._waiting if entry.sink is sink]
        if held:
            self._keep_waiting([entry for entry in self._waiting if entry.sink is not sink])
            self._held.setdefault(sink, []).extend(held)

    def release(self, sink: Sink) -> None:
        """That caller reads again: its messages wait as before, ahead of what has come since."""
        held = self._held.pop(sink, [])
        self._waiting.extendleft(reversed(held))
        for _ in held:
            self._wake()

    def opened(self, sink: Sink) -> None:
        """There is a connection."""
        self._sinks.add(sink)

    def closed(self, sink: Sink) -> None:
        """A connection is gone: nobody waits for what came through it. Casts of it are still handled."""
        self._sinks.discard(sink)
        self._past_links += sink.statistics()
        self.release(sink)
        self._outgoing.closed(sink)
        for entry in self._running:
            if entry.sink is sink:
                self._abandon(entry)
        kept = [entry for entry in self._waiting if entry.sink is not sink or entry.kind != "call"]
        self._cancelled += len(self._waiting) - len(kept)
        self._keep_waiting(kept)

    def _keep_waiting(self, kept: list[Entry]) -> None:
        """In place: the consumers hold on to the queue itself."""
        self._waiting.clear()
        self._waiting.extend(kept)

    def statistics(self) -> Statistics:
        """The counters of this moment."""
        outgoing = self._outgoing
        return Statistics(
            waiting=len(self._waiting) + sum(map(len, self._held.values())),
            running=self._busy,
            streams=len(outgoing),
            handled=self._handled + outgoing.handled,
            refused=self._refused + outgoing.refused,
            overloaded=self._overloaded + outgoing.overloaded,
            expired=self._expired,
            cancelled=self._cancelled + outgoing.cancelled,
            links=sum((each.statistics() for each in self._sinks), self._past_links),
        )

    # -- messages through ------------------------------------------------------------------------------------------------

    def _put(self, entry: Entry) -> None:
        if self.ending is not None:
            entry.answer(self._down(self.ending))
            return
        if len(self._waiting) >= self.server.mailbox_limit and entry.sink is not None:
            # What the system itself says (infos, timers) is bounded where it is made and is never shed.
            self._overloaded += 1
            entry.answer(Overloaded(self.place, self.server.mailbox_limit))
            return
        self._waiting.append(entry)
        self._wake()

    def _wake(self) -> None:
        """Something waits: have it handled, by a consumer that has nothing to do, or by one more."""
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._consumers) < self._most_consumers:
            task = self.loop.create_task(self._consume())
            self._consumers.add(task)
            task.add_done_callback(self._consumers.discard)

    async def _consume(self) -> None:  # noqa: C901, PLR0912, PLR0915 - it runs for every message; a call to another costs a tenth
        """Handle one message after the other, for ever. `concurrency` of these run side by side; each starts when needed."""
        server, waiting, idle, running = self.server, self._waiting, self._idle, self._running
        new_future = self.loop.create_future
        me = asyncio.current_task()  # asked once: it costs a system call
        while True:
            if waiting:
                entry = waiting.popleft()
                running.add(entry)
                self._busy += 1
            else:
                waiter = new_future()
                idle.append(waiter)
                entry = await waiter
                if entry is None:
                    continue
            try:
                if entry.cancelled:
                    self._cancelled += 1
                    continue
                context = entry.context
                if context.deadline is not None and context.deadline < time.monotonic():
                    self._expired += 1  # its caller has gone with CallTimeout; work that nobody waits for never starts
                    continue
                current_context.set(context)
                entry.task = me
                if entry.kind == "call":
                    value = await server.handle_call(entry.body)
                    sink = entry.sink
                    if entry.cancelled or sink is None:
                        _forgive_cancel()  # it was asked to leave off, and did not
                    else:
                        running.discard(entry)  # it is answered now: nobody answers it again
                        try:
                            sink.reply(entry.id, value)
                        except WireError as error:  # the work is done; only its value cannot travel, and the caller is told
                            self._refused += 1
                            sink.error(entry.id, error)
                else:
                    await self._handle(entry)
                self._handled += 1
            except Refused as error:
                self._refused += 1
                entry.answer(error)
            except asyncio.CancelledError as error:
                if self._finish is not None:
                    raise  # the mailbox itself is being ended
                if not _forgive_cancel():  # a task that the handler waited for was cancelled, or it raised this itself
                    self._crash_of(entry, error)
                    return
                self._cancelled += 1
            except BaseException as error:  # noqa: BLE001 - crash means crash, SystemExit too
                self._crash_of(entry, error)
                return
            finally:
                running.discard(entry)
                self._busy -= 1
                if self.ending is not None:
                    self._end_when_quiet()

    async def _handle(self, entry: Entry) -> None:
        """One message that is no call, by its kind."""
        if entry.kind == "cast":
            await self.server.handle_cast(entry.body)
        elif entry.kind == "info":
            await self.server.handle_info(entry.body)
        else:
            await self.server.handle_timer(entry.body)

    def _crash_of(self, entry: Entry, error: BaseException) -> None:
        entry.answer(self._down(Crash.from_exception(error)))
        self.crash(error)


def _forgive_cancel() -> bool:
    """Take back what was asked of the running task: it goes on with the next message. False when nothing was asked of it."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called in one
    asked = task.cancelling() > 0
    while task.cancelling():
        task.uncancel()
    return asked
