"""The server's end of a link: hands each frame to the mailbox, writes its answers. It is the mailbox's `Sink`.

Lives in the server's event loop. A frame that is double, unknown, oversized or garbled harms only itself and is counted.
A caller that does not read its answers is not read either, and what it has sent already is put aside until it reads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from supervisors.envelope import Context
from supervisors.errors import Refused, WireError
from supervisors.exits import ExitReason, for_callers
from supervisors.wire import frames
from supervisors.wire.frame_decoder import Fault, FrameDecoder
from supervisors.wire.frames import Kind
from supervisors.wire.order import Arrivals
from supervisors.wire.peer import HIGH_WATER, LinkStatistics, peer_is_trusted, sendable

if TYPE_CHECKING:
    from supervisors.mailbox import Mailbox

__all__ = ["Connection"]

_CALL, _CAST, _STREAM = int(Kind.CALL), int(Kind.CAST), int(Kind.STREAM)
_CREDIT, _CANCEL, _PING = int(Kind.CREDIT), int(Kind.CANCEL), int(Kind.PING)
_new_tuple = tuple.__new__  # half the cost of the named tuple's own constructor
_OPENING = frozenset({_CALL, _CAST, _STREAM})


class Connection(asyncio.Protocol):
    """The server's end: hands each frame to the mailbox, writes its answers."""

    def __init__(self, mailbox: Mailbox, connections: set[Connection]) -> None:
        self._mailbox = mailbox
        self._connections = connections
        self._decoder = FrameDecoder()
        self._arrivals = Arrivals()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._closed = False
        self._writable: asyncio.Event | None = None
        self._taking = False
        self._asked = 0

    # -- frames in (asyncio.Protocol) ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if peer_is_trusted(transport.get_extra_info("socket")):
            self._connections.add(self)
            self._mailbox.opened(self)
            if self._mailbox.ending is not None:
                self.go_away(self._mailbox.ending)  # it came through while the door was being closed
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        mailbox = self._mailbox
        self._taking = True
        for frame in self._decoder.feed(data):
            kind = frame[0]
            id_ = frame[1]
            if kind in _OPENING:
                if not self._arrivals.is_new(id_):
                    continue  # counted there: a double of what was executed already
                if type(frame[5]) is Fault:
                    self._refuse(kind, id_, frame[5].error)
                    continue
                context = _new_tuple(Context, frame[2:5])
                if kind == _CALL:
                    mailbox.call(self, id_, context, frame[5])
                elif kind == _CAST:
                    mailbox.cast(self, context, frame[5])
                else:
                    mailbox.open_stream(self, id_, context, frame[5], frame[6])
            elif kind == _CREDIT:
                self._asked += 1
                mailbox.grant(self, id_, frame[2])
            elif kind == _CANCEL:
                self._asked += 1
                mailbox.cancel(self, id_)
            elif kind == _PING:
                self._asked += 1
                self._write(frames.encode_pong(id_))
            else:
                self._arrivals.unknown += 1
        self._taking = False
        if self._writable is not None:
            mailbox.hold(self)

    def _refuse(self, kind: int, id_: int, error: WireError) -> None:
        """What the caller sent cannot be made here."""
        if kind == _CAST:
            self._mailbox.log.warning("a cast was dropped: %s", error)  # nobody waits who could be told
        else:
            self.error(id_, error)

    def pause_writing(self) -> None:
        """The peer does not read its answers: take no more work from it until it does."""
        self._writable = asyncio.Event()
        if not self._transport.is_closing():
            self._transport.pause_reading()
        if not self._taking:  # else when all of what was read is in the mailbox, so that nothing overtakes
            self._mailbox.hold(self)

    def resume_writing(self) -> None:
        if self._writable is None:
            return
        self._writable.set()
        self._writable = None
        if not self._closed:
            if not self._transport.is_closing():
                self._transport.resume_reading()
            self._mailbox.release(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._closed = True
        self._connections.discard(self)
        self._mailbox.closed(self)
        if self._writable is not None:
            self._writable.set()

    @property
    def unwritten(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._closed else self._transport.get_write_buffer_size()

    def go_away(self, reason: ExitReason) -> None:
        """The server ends: tell the caller up to which message it accepted any. Called in the loop by the server's host."""
        self._write(frames.encode_goaway(self._arrivals.newest, for_callers(reason)))

    def close(self) -> None:
        """End the link when what was written has left."""
        self._transport.close()

    def abort(self) -> None:
        """Drop the peer."""
        self._transport.abort()

    def statistics(self) -> LinkStatistics:
        """The counters of this moment."""
        arrivals = self._arrivals
        return LinkStatistics.of(
            self._decoder,
            links=int(not self._closed),
            frames=arrivals.arrived + arrivals.doubles + arrivals.unknown + self._asked,
            double=arrivals.doubles,
            unknown=arrivals.unknown,
        )

    # -- Sink ----------------------------------------------------------------------------------------------------------

    def reply(self, id_: int, value: Any) -> None:
        data = frames.encode_reply(id_, value)
        if not self._closed:
            self._transport.write(data)

    def error(self, id_: int, error: BaseException) -> None:
        try:
            data = frames.encode_error(id_, sendable(error))
        except WireError as problem:  # details that cannot travel must not hide the error itself
            data = frames.encode_error(id_, Refused(str(error)[:2000], "error", {"unsendable": str(problem)[:2000]}))
        self._write(data)

    def item(self, id_: int, seq: int, value: Any) -> None:
        self._write(frames.encode_item(id_, seq, value))

    def end(self, id_: int, count: int) -> None:
        self._write(frames.encode_end(id_, count))

    async def until_writable(self) -> None:
        while self._writable is not None and not self._closed:
            await self._writable.wait()

    def _write(self, data: bytes) -> None:
        if not self._closed:
            self._transport.write(data)
