"""The frames of a link: what two processes of a tree say to each other.

Pure: values in, bytes out; `frame_decoder` is the way back, re-exported here. On the wire a frame is a header of
14 bytes (magic, length, its complement, CRC-32; see `frame_decoder.header`) and one msgpack array, whose first element is
the kind:

====== == ========================================================= ==================================
kind   no array                                                     from, meaning
====== == ========================================================= ==================================
CALL    1 `[1, id, deadline, correlation, trace, message]`          opener: answer by the deadline
REPLY   2 `[2, id, value]`                                          server: the answer
ERROR   3 `[3, id, error]`                                          server: a typed error instead
CAST    4 `[4, id, deadline, correlation, trace, message]`          opener: no answer is wanted
STREAM  5 `[5, id, deadline, correlation, trace, message, credit]`  opener: answer in items
ITEM    6 `[6, id, seq, value]`                                     server: one item of a stream
CREDIT  7 `[7, id, n]`                                              opener: leave for `n` items in all
END     8 `[8, id, outcome]`                                        server: the stream ended
CANCEL  9 `[9, id]`                                                 opener: no answer is wanted any more
PING   10 `[10, id]`                                                either: are you there
PONG   11 `[11, id]`                                                either: yes
GOAWAY 12 `[12, id, reason]`                                        server: nothing after that id was accepted
====== == ========================================================= ==================================

- `id`: 0 to 2**64-1, chosen by the opener, once per connection.
- `deadline`: `time.monotonic()` in seconds, which is one clock for all processes of a host; finite; or None.
- `correlation`, `trace` (W3C traceparent): str or None.
- `seq`: 0 to 2**64-1. `credit`: 0 to 2**32-1. `n`: counted from the opening, modulo 2**32, so that a lost or a doubled
  CREDIT is made good by the next one.
- `outcome`: an error, or what the two ends agree on for a good end.

A payload that this process cannot make (an unregistered class, a state that its class refuses) arrives as a
`Fault` in the place of the payload: the header is good, so the opener can be answered with the error.
"""

from __future__ import annotations

import enum
from typing import Any
from zlib import crc32

from supervisors.errors import FrameTooLarge
from supervisors.wire.codec import explain, pack_at
from supervisors.wire.frame_decoder import ALL_ONES, MAGIC, MAX_FRAME, Fault, FrameDecoder, FrameStatistics, pack_header

__all__ = [
    "MAX_FRAME",
    "Fault",
    "FrameDecoder",
    "FrameStatistics",
    "Kind",
    "encode_call",
    "encode_cancel",
    "encode_cast",
    "encode_credit",
    "encode_end",
    "encode_error",
    "encode_goaway",
    "encode_item",
    "encode_ping",
    "encode_pong",
    "encode_reply",
    "encode_stream",
]


class Kind(enum.IntEnum):
    """The first element of every frame."""

    CALL = 1
    REPLY = 2
    ERROR = 3
    CAST = 4
    STREAM = 5
    ITEM = 6
    CREDIT = 7
    END = 8
    CANCEL = 9
    PING = 10
    PONG = 11
    GOAWAY = 12


# --- encoding -----------------------------------------------------------------------------------------------
# Each function returns a whole frame, its header included. They raise, before anything is sent,
# `UnsupportedValue` for what cannot travel (its path begins with the name in the table above) and
# `FrameTooLarge` for a frame over `limit` bytes. The header is the link's own work; the receiver checks it.


def encode_call(  # noqa: PLR0913, PLR0917 - the elements of the frame, in its order
    id_: int,
    deadline: float | None,
    correlation: str | None,
    trace: str | None,
    message: Any,
    limit: int = MAX_FRAME,
) -> bytes:
    """A CALL: to be answered by a REPLY or an ERROR of the same id, before the deadline."""
    return _encode([1, id_, deadline, correlation, trace, message], limit)


def encode_reply(id_: int, value: Any, limit: int = MAX_FRAME) -> bytes:
    """A REPLY to the CALL of that id."""
    return _encode([2, id_, value], limit)


def encode_error(id_: int, error: Any, limit: int = MAX_FRAME) -> bytes:
    """An ERROR in answer to the CALL or STREAM of that id; the error is a registered value."""
    return _encode([3, id_, error], limit)


def encode_cast(  # noqa: PLR0913, PLR0917 - the elements of the frame, in its order
    id_: int,
    deadline: float | None,
    correlation: str | None,
    trace: str | None,
    message: Any,
    limit: int = MAX_FRAME,
) -> bytes:
    """A CAST: like a call, but nobody waits for an answer."""
    return _encode([4, id_, deadline, correlation, trace, message], limit)


def encode_stream(  # noqa: PLR0913, PLR0917 - the elements of the frame, in its order
    id_: int,
    deadline: float | None,
    correlation: str | None,
    trace: str | None,
    message: Any,
    credit: int,
    limit: int = MAX_FRAME,
) -> bytes:
    """A STREAM: opens one, with leave to send `credit` items."""
    return _encode([5, id_, deadline, correlation, trace, message, credit], limit)


def encode_item(id_: int, seq: int, value: Any, limit: int = MAX_FRAME) -> bytes:
    """An ITEM of the stream of that id."""
    return _encode([6, id_, seq, value], limit)


def encode_credit(id_: int, n: int) -> bytes:
    """CREDIT: leave to send `n` items in all, modulo 2**32."""
    return _encode([7, id_, n], MAX_FRAME)


def encode_end(id_: int, outcome: Any = None, limit: int = MAX_FRAME) -> bytes:
    """The END of the stream of that id: with an error, or with what the link agrees on for a good end."""
    return _encode([8, id_, outcome], limit)


def encode_cancel(id_: int) -> bytes:
    """CANCEL: the answer to that id is no longer wanted."""
    return _encode([9, id_], MAX_FRAME)


def encode_ping(id_: int) -> bytes:
    """A PING, answered by a PONG of the same id."""
    return _encode([10, id_], MAX_FRAME)


def encode_pong(id_: int) -> bytes:
    """The PONG to the PING of that id."""
    return _encode([11, id_], MAX_FRAME)


def encode_goaway(last_id: int, reason: Any) -> bytes:
    """A GOAWAY: the server ends, for that reason; what came with a greater id was not accepted, and may be sent elsewhere."""
    return _encode([12, last_id, reason], MAX_FRAME)


def _encode(frame: list[Any], limit: int) -> bytes:
    try:
        body = pack_at(0, frame)
    except Exception as error:  # noqa: BLE001 - whatever stopped it is explained
        names = _FIELDS[frame[0]]
        raise explain(error, dict(zip(names, frame, strict=True))) from None
    size = len(body)
    if size > limit:
        raise FrameTooLarge(size, limit)
    # `frame_decoder.header`, in place: it stands before every message there is
    return pack_header(MAGIC, size, size ^ ALL_ONES, crc32(body)) + body


_OPENING = ("kind", "id", "deadline", "correlation", "trace", "message")
_FIELDS: dict[int, tuple[str, ...]] = {
    1: _OPENING,
    2: ("kind", "id", "value"),
    3: ("kind", "id", "error"),
    4: _OPENING,
    5: (*_OPENING, "credit"),
    6: ("kind", "id", "seq", "value"),
    7: ("kind", "id", "n"),
    8: ("kind", "id", "outcome"),
    9: ("kind", "id"),
    10: ("kind", "id"),
    11: ("kind", "id"),
    12: ("kind", "id", "reason"),
}
