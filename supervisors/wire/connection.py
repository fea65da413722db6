"""The server's end of a link: hands each frame to the mailbox, writes its answers. It is the mailbox's `Sink`.

Lives in the server's event loop. A frame that is double, unknown, oversized or garbled harms only itself and is counted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from supervisors.envelope import Context
from supervisors.errors import Refused, WireError
from supervisors.wire import frames
from supervisors.wire.frame_decoder import Fault, FrameDecoder
from supervisors.wire.frames import Kind
from supervisors.wire.order import Arrivals
from supervisors.wire.peer import HIGH_WATER, LinkStatistics, peer_is_trusted, sendable

if TYPE_CHECKING:
    from supervisors.mailbox import Mailbox

__all__ = ["Connection"]

_OPENING = frozenset({Kind.CALL, Kind.CAST, Kind.STREAM})


class Connection(asyncio.Protocol):
    """The server's end: hands each frame to the mailbox, writes its answers."""

    def __init__(self, mailbox: Mailbox, connections: set[Connection]) -> None:
        self._mailbox = mailbox
        self._connections = connections
        self._decoder = FrameDecoder()
        self._arrivals = Arrivals()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if peer_is_trusted(transport.get_extra_info("socket")):
            self._connections.add(self)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        mailbox = self._mailbox
        for frame in self._decoder.feed(data):
            kind = frame[0]
            id_ = frame[1]
            if kind in _OPENING:
                if not self._arrivals.is_new(id_):
                    continue  # counted there: a double of what was executed already
                if type(frame[5]) is Fault:
                    if kind != Kind.CAST:
                        self.error(id_, frame[5].error)
                    continue
                context = Context(frame[2], frame[3], frame[4])
                if kind == Kind.CALL:
                    mailbox.call(self, id_, context, frame[5])
                elif kind == Kind.CAST:
                    mailbox.cast(self, context, frame[5])
                else:
                    mailbox.open_stream(self, id_, context, frame[5], frame[6])
            elif kind == Kind.CREDIT:
                mailbox.add_credit(self, id_, frame[2])
            elif kind == Kind.CANCEL:
                mailbox.cancel(self, id_)
            elif kind == Kind.PING:
                self._write(frames.encode_pong(id_))
            else:
                self._arrivals.unknown += 1

    def pause_writing(self) -> None:
        """The peer does not read its answers: take no more work from it until it does."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._closed:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._closed = True
        self._connections.discard(self)
        self._mailbox.closed(self)

    @property
    def unwritten(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._closed else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Drop the peer."""
        self._transport.abort()

    def statistics(self) -> LinkStatistics:
        """The counters of this moment; `late` are doubles here."""
        decoder = self._decoder
        return LinkStatistics(
            self._arrivals.arrived,
            0,
            self._arrivals.doubles,
            self._arrivals.unknown + decoder.unknown_kind,
            decoder.garbled,
            decoder.oversized,
            decoder.malformed,
        )

    # -- Sink ----------------------------------------------------------------------------------------------------------

    def reply(self, id_: int, value: Any) -> None:
        self._write(frames.encode_reply(id_, value))

    def error(self, id_: int, error: BaseException) -> None:
        try:
            data = frames.encode_error(id_, sendable(error))
        except WireError as problem:  # details that cannot travel must not hide the error itself
            data = frames.encode_error(id_, Refused(str(error), "error", {"unsendable": str(problem)}))
        self._write(data)

    def item(self, id_: int, seq: int, value: Any) -> None:
        self._write(frames.encode_item(id_, seq, value))

    def end(self, id_: int, count: int) -> None:
        self._write(frames.encode_end(id_, count))

    def _write(self, data: bytes) -> None:
        if not self._closed:
            self._transport.write(data)
