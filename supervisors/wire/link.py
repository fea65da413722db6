"""The caller's end of a link: one Unix socket to one server, shared by all callers of one event loop.

Every method is called in that loop's thread. A frame that is late, double, unknown, oversized or garbled harms only itself
and is counted. Nobody waits for ever: a call ends with its reply, a typed error, or at its deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from supervisors.errors import CallTimeout, Overloaded, Refused, SupervisorsError
from supervisors.wire import frames
from supervisors.wire.frame_decoder import Fault, FrameDecoder
from supervisors.wire.frames import Kind
from supervisors.wire.incoming import Incoming
from supervisors.wire.peer import HIGH_WATER, LinkStatistics, peer_is_trusted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from supervisors.exits import ExitReason
    from supervisors.wire.vocabulary import Address

__all__ = ["MAX_IN_FLIGHT", "STREAM_WINDOW", "Link", "LinkLost", "NotAccepted"]

MAX_IN_FLIGHT = 4096
"""Calls that one link bears at once, and streams, and callers that wait to write; one more is `Overloaded` and not sent."""
STREAM_WINDOW = 32
"""Items that a stream may be ahead of its reader."""

_REPLY, _ERROR, _ITEM, _END, _PONG, _GOAWAY = map(int, (Kind.REPLY, Kind.ERROR, Kind.ITEM, Kind.END, Kind.PONG, Kind.GOAWAY))
_U32 = 0xFFFF_FFFF
_CLOCK_STEP = 0.001  # a loop's clock stands still for a turn, and uvloop's counts milliseconds
_LEAST_ALARM = 0.005  # bounds what looking through a full link costs

_living: WeakSet[Link] = WeakSet()


def _close_after_fork() -> None:
    """In a forked child: a link belongs to the process that opened it. Its next use takes the slow way, where that is said."""
    for link in _living:
        link.closed = True


os.register_at_fork(after_in_child=_close_after_fork)


class LinkLost(Exception):
    """The link ended while something waited on it. Never leaves the package: callers get `ActorDown` with the reason."""


class NotAccepted(LinkLost):
    """The server ends, and did not accept this message: it may be sent to the next process."""

    def __init__(self, reason: ExitReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Link(asyncio.Protocol):
    """The caller's end. Made by `Link.open`, shared by all callers of one loop, closed by its owner."""

    def __init__(self, target: str, on_lost: Callable[[Link], None] | None = None) -> None:
        self.target = target
        self.closed = False
        """nothing new may be sent: it has ended, or the server has said that it will"""
        self.address: Address | None = None
        """of the process at the other end, for whoever asks later how that ended"""
        self._lost = False
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._gone = asyncio.Event()
        self._decoder = FrameDecoder()
        self._next_id = itertools.count(1).__next__
        self._new_future = self._loop.create_future
        self._pending: dict[int, tuple[asyncio.Future[Any], float, float]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        _living.add(self)
        self._alarm_at = math.inf
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._streams: dict[int, Incoming] = {}
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._writable: asyncio.Event | None = None
        self._blocked = 0
        self._frames = self._late = self._unknown = 0

    @classmethod
    async def open(cls, path: str, target: str, on_lost: Callable[[Link], None] | None = None) -> Link:
        """Connect. Raises OSError when nobody listens there, PermissionError when another user does.

        `on_lost` is called once, when the link has ended, by whichever side.
        """
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(target, on_lost), path)
        if not peer_is_trusted(link._transport.get_extra_info("socket")):
            link.abort()
            raise PermissionError(f"{path} is served by another user")
        return link

    # -- calls out ---------------------------------------------------------------------------------------------------

    async def call(self, message: Any, timeout: float, deadline: float, correlation: str | None, trace: str | None) -> Any:
        """Send a call and wait for its answer. Raises the server's typed error, `CallTimeout`, or `LinkLost`."""
        if self._writable is not None:
            await self._until_writable(timeout, deadline)
        id_, future = self.start(message, timeout, deadline, correlation, trace)
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(id_)
            raise

    def start(
        self, message: Any, timeout: float, deadline: float, correlation: str | None, trace: str | None
    ) -> tuple[int, asyncio.Future[Any]]:
        """Send a call now, and return its id and the future of its answer. Not while the link is `blocked`: then, `call`."""
        if len(self._pending) >= MAX_IN_FLIGHT:
            raise Overloaded(self.target, MAX_IN_FLIGHT)
        if self.closed:
            raise LinkLost
        id_ = self._next_id()
        data = frames.encode_call(id_, deadline, correlation, trace, message)
        future = self._new_future()
        self._pending[id_] = (future, deadline, timeout)
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        self._transport.write(data)
        return id_, future

    def forget(self, id_: int) -> None:
        """Nobody waits for that answer any more."""
        if self._pending.pop(id_, None) is not None:
            self._send(frames.encode_cancel(id_))

    @property
    def blocked(self) -> bool:
        """Whether the server does not read what was written."""
        return self._writable is not None

    async def cast(self, message: Any, timeout: float, deadline: float, correlation: str | None, trace: str | None) -> None:
        """Send a cast; returns when it is written, not when it is handled."""
        if self._writable is not None:
            await self._until_writable(timeout, deadline)
        if self.closed:
            raise LinkLost
        # A cast has no deadline of its own: nobody waits, so nothing expires.
        self._transport.write(frames.encode_cast(self._next_id(), None, correlation, trace, message))

    async def stream(  # noqa: PLR0913, PLR0917 - as `call`
        self,
        message: Any,
        timeout: float,
        correlation: str | None,
        trace: str | None,
        window: int = STREAM_WINDOW,
        deadline: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Open a stream and yield its items. `timeout` bounds the wait for each item, `deadline` the whole.

        Closing the iterator cancels the stream.
        """
        if len(self._streams) >= MAX_IN_FLIGHT:
            raise Overloaded(self.target, MAX_IN_FLIGHT)
        if self._writable is not None:
            await self._until_writable(timeout, self._bound(timeout, deadline))
        if self.closed:
            raise LinkLost
        id_ = self._next_id()
        incoming = Incoming(self._loop)
        self._transport.write(frames.encode_stream(id_, deadline, correlation, trace, message, window))
        self._streams[id_] = incoming
        taken = granted = 0
        try:
            while True:
                next_item = incoming.take() or await self._next_item(incoming, timeout, deadline)
                if not next_item[0]:
                    return
                yield next_item[1]
                taken += 1
                if taken - granted >= window // 2:
                    # What was granted in all, so that a lost or a doubled frame does no lasting harm.
                    granted = taken
                    self._send(frames.encode_credit(id_, (granted + window) & _U32))
        finally:
            del self._streams[id_]
            if not incoming.ended_by_peer:
                self._send(frames.encode_cancel(id_))

    async def ping(self, timeout: float) -> float:
        """Seconds to the server's loop and back. Raises `CallTimeout` or `LinkLost`."""
        if len(self._pings) >= MAX_IN_FLIGHT:
            raise Overloaded(self.target, MAX_IN_FLIGHT)
        start = self._loop.time()
        if self._writable is not None:
            await self._until_writable(timeout, start + timeout)
        if self.closed:
            raise LinkLost
        id_ = self._next_id()
        future = self._pings[id_] = self._loop.create_future()
        self._transport.write(frames.encode_ping(id_))
        try:
            async with asyncio.timeout_at(start + timeout):
                await future
        except TimeoutError:
            raise CallTimeout(self.target, timeout) from None
        finally:
            self._pings.pop(id_, None)
        return self._loop.time() - start

    def close(self) -> None:
        """End the link when what was written has left; whatever waits on it gets `LinkLost`. Idempotent."""
        self._transport.close()
        self._lose()

    def abort(self) -> None:
        """End the link at once."""
        self._transport.abort()
        self._lose()

    async def wait_closed(self) -> None:
        """Return when the socket is closed."""
        await self._gone.wait()

    def statistics(self) -> LinkStatistics:
        """The counters of this moment."""
        return LinkStatistics.of(
            self._decoder,
            links=int(not self.closed),
            frames=self._frames,
            pending=len(self._pending) + len(self._streams),
            late=self._late,
            unknown=self._unknown,
        )

    def _send(self, data: bytes) -> None:
        if not self.closed:
            self._transport.write(data)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        """End the calls whose deadline has passed. One alarm for all: with equal timeouts it is set once for many calls."""
        now = self._loop.time() + _CLOCK_STEP
        self._alarm_at = math.inf
        earliest = math.inf
        for id_, (future, deadline, timeout) in list(self._pending.items()):
            if deadline > now:
                earliest = min(earliest, deadline)
            elif self._pending.pop(id_, None) is not None and not future.done():
                future.set_exception(CallTimeout(self.target, timeout))
                self._send(frames.encode_cancel(id_))
        if earliest < math.inf:
            self._set_alarm(max(earliest, now + _LEAST_ALARM))

    async def _until_writable(self, timeout: float, deadline: float) -> None:
        """The server does not read: wait until it does, with others, but not with too many."""
        if self._blocked >= MAX_IN_FLIGHT:
            raise Overloaded(self.target, MAX_IN_FLIGHT)
        self._blocked += 1
        try:
            async with asyncio.timeout_at(deadline):
                while self._writable is not None and not self.closed:
                    await self._writable.wait()
        except TimeoutError:
            raise CallTimeout(self.target, timeout) from None
        finally:
            self._blocked -= 1

    async def _next_item(self, incoming: Incoming, timeout: float, deadline: float | None) -> tuple[bool, Any]:
        try:
            async with asyncio.timeout_at(self._bound(timeout, deadline)):
                while True:
                    await incoming.wait()
                    found = incoming.take()
                    if found is not None:
                        return found
        except TimeoutError:
            raise CallTimeout(self.target, timeout) from None

    def _bound(self, timeout: float, deadline: float | None) -> float:
        until = self._loop.time() + timeout
        return until if deadline is None else min(until, deadline)

    # -- frames in (asyncio.Protocol) ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self._frames += 1
            kind = frame[0]
            if kind == _REPLY:  # nearly all there is: answered in place
                pending = self._pending.pop(frame[1], None)
                if pending is None or pending[0].done():
                    self._late += 1
                elif type(frame[2]) is Fault:
                    pending[0].set_exception(frame[2].error)
                else:
                    pending[0].set_result(frame[2])
            elif kind == _ERROR:
                self._fail(frame[1], _as_error(frame[2]))
            elif kind == _ITEM:
                self._item(frame)
            elif kind == _END:
                stream = self._streams.get(frame[1])
                if stream is None:
                    self._late += 1
                else:
                    stream.end(frame[2] if type(frame[2]) is int else _as_error(frame[2]))
            elif kind == _PONG:
                self._pong(frame[1])
            elif kind == _GOAWAY:
                self._leave(frame[1], frame[2])
            else:
                self._unknown += 1

    def _answer(self, id_: int, value: Any) -> None:
        pending = self._pending.pop(id_, None)
        if pending is None or pending[0].done():
            self._late += 1
        else:
            pending[0].set_result(value)

    def _fail(self, id_: int, error: BaseException) -> None:
        """An error frame belongs to a call, or to a stream that was refused when it opened."""
        pending = self._pending.pop(id_, None)
        stream = self._streams.get(id_)
        if stream is not None:
            stream.end(error)
        elif pending is None or pending[0].done():
            self._late += 1
        else:
            pending[0].set_exception(error)

    def _leave(self, last_id: int, reason: Any) -> None:
        """The server ends. What it has accepted it will answer; the rest may be sent elsewhere, and nothing new comes here."""
        self.closed = True
        for id_ in [id_ for id_ in self._pending if id_ > last_id]:
            self._fail(id_, NotAccepted(reason))
        for id_ in [id_ for id_ in self._streams if id_ > last_id]:
            self._fail(id_, NotAccepted(reason))

    def _item(self, frame: list[Any]) -> None:
        stream = self._streams.get(frame[1])
        if stream is None or not stream.accepts(frame[2]):
            self._late += 1
        elif type(frame[3]) is Fault:
            stream.fail(frame[3].error)
        else:
            stream.put(frame[2], frame[3])

    def _pong(self, id_: int) -> None:
        future = self._pings.pop(id_, None)
        if future is None or future.done():
            self._late += 1
        else:
            future.set_result(None)

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how the socket ended says nothing about the server
        self._lose()
        self._gone.set()

    def _lose(self) -> None:
        self.closed = True
        if self._lost:
            return
        self._lost = True
        waiting = [*(future for future, _, _ in self._pending.values()), *self._pings.values()]
        self._pending.clear()
        if self._alarm is not None:
            self._alarm.cancel()
        for future in waiting:
            if not future.done():
                future.set_exception(LinkLost())
        for stream in self._streams.values():
            stream.end(LinkLost())
        self.resume_writing()
        if self._on_lost is not None:
            self._on_lost(self)


def _as_error(value: Any) -> BaseException:
    if isinstance(value, SupervisorsError):
        return value
    if type(value) is Fault:
        return value.error
    return Refused(f"the server answered with an error that is none: {value!r:.200}", "malformed")
