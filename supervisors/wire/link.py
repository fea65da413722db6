"""The caller's end of a link: one Unix socket to one server, shared by all callers of one event loop.

Every method is called in that loop's thread. A frame that is late, double, unknown, oversized or garbled harms only itself
and is counted. Nobody waits for ever: a call ends with its reply, a typed error, or at its deadline.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, cast

from supervisors.errors import CallTimeout, Overloaded, Refused, SupervisorsError
from supervisors.wire import frames
from supervisors.wire.frame_decoder import Fault, FrameDecoder
from supervisors.wire.frames import Kind
from supervisors.wire.incoming import Incoming
from supervisors.wire.peer import HIGH_WATER, LinkStatistics, peer_is_trusted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Link", "LinkLost"]

MAX_IN_FLIGHT = 4096
"""Calls and streams that one link bears at once; one more is `Overloaded` before it is sent."""
STREAM_WINDOW = 32
"""Items that a stream may be ahead of its reader."""


class LinkLost(Exception):
    """The link ended while something waited on it. Never leaves the package: callers get `ActorDown` with the reason."""


class Link(asyncio.Protocol):
    """The caller's end. Made by `Link.open`, shared by all callers of one loop, closed by its owner."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Incoming] = {}
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._writable: asyncio.Event | None = None
        self._frames = self._late = self._unknown = 0

    @classmethod
    async def open(cls, path: str, target: str) -> Link:
        """Connect. Raises OSError when nobody listens there, PermissionError when another user does."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(target), path)
        if not peer_is_trusted(link._transport.get_extra_info("socket")):
            link.close()
            raise PermissionError(f"{path} is served by another user")
        return link

    # -- calls out ---------------------------------------------------------------------------------------------------

    async def call(self, message: Any, timeout: float, deadline: float, correlation: str | None, trace: str | None) -> Any:
        """Send a call and wait for its answer. Raises the server's typed error, `CallTimeout`, or `LinkLost`."""
        if len(self._pending) >= MAX_IN_FLIGHT:
            raise Overloaded(self.target, MAX_IN_FLIGHT)
        if self._writable is not None:
            await self._until_writable(timeout, deadline)
        if self.closed:
            raise LinkLost
        id_ = next(self._ids)
        data = frames.encode_call(id_, deadline, correlation, trace, message)
        future = self._loop.create_future()
        self._pending[id_] = future
        timer = self._loop.call_at(deadline, self._expire, id_, timeout)
        self._transport.write(data)
        try:
            return await future
        except asyncio.CancelledError:
            if self._pending.pop(id_, None) is not None:
                self._send(frames.encode_cancel(id_))
            raise
        finally:
            timer.cancel()

    async def cast(self, message: Any, timeout: float, deadline: float, correlation: str | None, trace: str | None) -> None:
        """Send a cast; returns when it is written, not when it is handled."""
        if self._writable is not None:
            await self._until_writable(timeout, deadline)
        if self.closed:
            raise LinkLost
        # A cast has no deadline of its own: nobody waits, so nothing expires.
        self._transport.write(frames.encode_cast(next(self._ids), None, correlation, trace, message))

    async def stream(
        self, message: Any, timeout: float, correlation: str | None, trace: str | None, window: int = STREAM_WINDOW
    ) -> AsyncGenerator[Any, None]:
        """Open a stream and yield its items. `timeout` bounds the wait for each item. Closing the iterator cancels it."""
        if len(self._streams) >= MAX_IN_FLIGHT:
            raise Overloaded(self.target, MAX_IN_FLIGHT)
        if self.closed:
            raise LinkLost
        id_ = next(self._ids)
        incoming = self._streams[id_] = Incoming(self._loop)
        try:
            self._send(frames.encode_stream(id_, None, correlation, trace, message, window))
            taken = 0
            while True:
                try:
                    async with asyncio.timeout(timeout):
                        found, item = await incoming.take()
                except TimeoutError:
                    raise CallTimeout(self.target, timeout) from None
                if not found:
                    return
                yield item
                taken += 1
                if taken >= window // 2:
                    self._send(frames.encode_credit(id_, taken))
                    taken = 0
        finally:
            if self._streams.pop(id_, None) is not None and not incoming.finished:
                self._send(frames.encode_cancel(id_))

    async def ping(self, timeout: float) -> float:
        """Seconds to the server's loop and back."""
        id_ = next(self._ids)
        future = self._pending[id_] = self._loop.create_future()
        start = self._loop.time()
        self._send(frames.encode_ping(id_))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise CallTimeout(self.target, timeout) from None
        finally:
            self._pending.pop(id_, None)
        return self._loop.time() - start

    def close(self) -> None:
        """End the link; whatever waits on it gets `LinkLost`."""
        if self._transport is not None:
            self._transport.close()
        self._lose()

    def statistics(self) -> LinkStatistics:
        """The counters of this moment."""
        decoder = self._decoder
        return LinkStatistics(
            self._frames,
            len(self._pending),
            self._late,
            self._unknown + decoder.unknown_kind,
            decoder.garbled,
            decoder.oversized,
            decoder.malformed,
        )

    def _send(self, data: bytes) -> None:
        if not self.closed:
            self._transport.write(data)

    def _expire(self, id_: int, timeout: float) -> None:
        future = self._pending.pop(id_, None)
        if future is not None and not future.done():
            future.set_exception(CallTimeout(self.target, timeout))
            self._send(frames.encode_cancel(id_))

    async def _until_writable(self, timeout: float, deadline: float) -> None:
        while self._writable is not None and not self.closed:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._writable.wait()
            except TimeoutError:
                raise CallTimeout(self.target, timeout) from None

    # -- frames in (asyncio.Protocol) ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self._frames += 1
            kind = frame[0]
            if kind == Kind.REPLY:
                if type(frame[2]) is Fault:
                    self._fail(frame[1], frame[2].error)
                else:
                    self._answer(frame[1], frame[2])
            elif kind == Kind.ERROR:
                self._fail(frame[1], _as_error(frame[2]))
            elif kind == Kind.ITEM:
                self._item(frame)
            elif kind == Kind.END:
                stream = self._streams.get(frame[1])
                if stream is None:
                    self._late += 1
                else:
                    stream.end(frame[2] if type(frame[2]) is int else _as_error(frame[2]))
            elif kind == Kind.PONG:
                self._answer(frame[1], None)
            else:
                self._unknown += 1

    def _answer(self, id_: int, value: Any) -> None:
        future = self._pending.pop(id_, None)
        if future is None or future.done():
            self._late += 1
        else:
            future.set_result(value)

    def _fail(self, id_: int, error: BaseException) -> None:
        """An error frame belongs to a call, or to a stream that was refused when it opened."""
        future = self._pending.pop(id_, None)
        stream = self._streams.get(id_)
        if stream is not None:
            stream.end(error)
        elif future is None or future.done():
            self._late += 1
        else:
            future.set_exception(error)

    def _item(self, frame: list[Any]) -> None:
        stream = self._streams.get(frame[1])
        if stream is None or not stream.accepts(frame[2]):
            self._late += 1
        elif type(frame[3]) is Fault:
            stream.end(frame[3].error)
        else:
            stream.put(frame[2], frame[3])

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how the socket ended says nothing about the server
        self._lose()

    def _lose(self) -> None:
        self.closed = True
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(LinkLost())
        for stream in self._streams.values():
            stream.end(LinkLost())
        self.resume_writing()


def _as_error(value: Any) -> BaseException:
    if isinstance(value, SupervisorsError):
        return value
    if type(value) is Fault:
        return value.error
    return Refused(f"the server answered with an error that is none: {value!r:.200}", "malformed")
