"""Bytes to frames: the receiving half of `frames`, where their table is. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from msgpack import unpackb

from supervisors.errors import WireError
from supervisors.wire.codec import Reader

__all__ = ["ALL_ONES", "HEADER_SIZE", "MAGIC", "MAX_FRAME", "Fault", "FrameDecoder", "FrameStatistics", "header", "pack_header"]

MAX_FRAME = 16 * 1024 * 1024
"""Bytes in one frame, unless told otherwise; the header does not count."""
HEADER_SIZE = 14

_U64 = 2**64 - 1
_U32 = 2**32 - 1
_MAX_INF, _MIN_INF = float("inf"), float("-inf")
# Compared by identity, as True equals 1; what is equal but not identical goes the longer way.
_CALL, _REPLY = 1, 2
_CHECKED_SIZE = 1024  # as in the codec: smaller bodies go to msgpack as they are
MAGIC = 0xD5F0
ALL_ONES = 0xFFFFFFFF
_MAGIC_BYTES = b"\xd5\xf0"
_HEADER = struct.Struct(">HIII")
pack_header, _read_header = _HEADER.pack, _HEADER.unpack_from

# Where each kind has its payload; 0 is none.
_PAYLOAD = {1: 5, 2: 2, 3: 2, 4: 5, 5: 5, 6: 3, 7: 0, 8: 2, 9: 0, 10: 0, 11: 0, 12: 2}


def header(body: bytes) -> bytes:
    """What stands before a body: magic (2 bytes), length (4), the length's complement (4), CRC-32 of the body (4)."""
    size = len(body)
    return pack_header(MAGIC, size, size ^ ALL_ONES, crc32(body))


class Fault:
    """Stands where a payload could not be made; `error` says why and is fit to be sent back."""

    __slots__ = ("error",)

    def __init__(self, error: WireError) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Fault({self.error!r})"


@dataclass(frozen=True, slots=True)
class FrameStatistics:
    """What a decoder dropped, and why; `faults` are frames it gave out with a `Fault` for their payload."""

    garbled: int
    oversized: int
    unknown_kind: int
    malformed: int
    faults: int


class FrameDecoder:
    """Cuts a stream of bytes into frames, for one connection in one thread. It raises on no input.

    A frame that is no good is dropped and counted, and the stream goes on after it:

    - `oversized`: longer than `max_frame`; its bytes are passed over as they come and never kept.
    - `garbled`: its bytes were changed on the way, or are no msgpack value.
    - `malformed`: a value, but no frame: not an array, wrong number of elements, or a header of the wrong
      types.
    - `unknown_kind`: an array whose first element is a number that names no kind.

    It holds at most one frame of up to `max_frame` bytes. A header that is no good is passed over up to the next good
    one, so that a changed length costs its own frame only. (CRC-32 finds accidents. Against intent stand the socket's
    directory and the peer's uid.)
    """

    __slots__ = (
        "_extension",
        "_lost",
        "_partial",
        "_reader",
        "_skip",
        "_unfinished",
        "faults",
        "garbled",
        "malformed",
        "max_frame",
        "oversized",
        "unknown_kind",
    )

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.max_frame = max_frame
        self.garbled = 0
        self.oversized = 0
        self.unknown_kind = 0
        self.malformed = 0
        self.faults = 0
        self._reader = Reader()
        self._extension = self._reader.extension
        self._unfinished = False  # whether one of these two holds something
        self._lost = False  # whether the next good header is being looked for
        self._partial = bytearray()  # the beginning of a frame, its header included
        self._skip = 0  # bytes of an oversized frame that are still to come

    def statistics(self) -> FrameStatistics:
        """The counters of this moment."""
        return FrameStatistics(self.garbled, self.oversized, self.unknown_kind, self.malformed, self.faults)

    # One long function: it runs for every message there is, and a call to another costs it a tenth.
    def feed(self, data: bytes | bytearray | memoryview) -> list[list[Any]]:  # noqa: C901, PLR0912, PLR0915
        """The frames that these bytes complete, in order, each an array as in `frames`.

        Keeps no reference to `data`.
        """
        frames: list[list[Any]] = []
        if self._unfinished:
            whole, data = self._resume(data)
            if whole:
                frames = self.feed(whole)
        reader = self._reader
        end = len(data)
        start = HEADER_SIZE  # of a body; its header stands before it
        while start <= end:
            magic, size, complement, crc = _read_header(data, start - HEADER_SIZE)
            if size ^ complement != ALL_ONES or magic != MAGIC:
                start = self._find_header(data, start - HEADER_SIZE + 1) + HEADER_SIZE
                continue
            self._lost = False
            stop = start + size
            if stop > end or size > self.max_frame:
                if size <= self.max_frame:
                    break
                self.oversized += 1
                if stop > end:
                    self._skip = stop - end
                    self._unfinished = True
                    return frames
                start = stop + HEADER_SIZE
                continue
            body = data[start:stop]
            start = stop + HEADER_SIZE
            if crc32(body) != crc:
                self.garbled += 1
                continue
            try:
                if size <= _CHECKED_SIZE:
                    frame = unpackb(body, ext_hook=self._extension, strict_map_key=False)
                else:
                    frame = reader.read(body)
            except Exception:  # noqa: BLE001 - also what a key's __hash__ raises: the bytes are the cause
                self.garbled += 1
                reader.fault = None
                continue
            # Nearly all traffic is calls and replies: `_opening` and `_answer`, in place.
            if type(frame) is list and reader.fault is None:
                if len(frame) == 6 and frame[0] is _CALL:  # noqa: PLR2004
                    _, id_, deadline, correlation, trace, _ = frame
                    if (
                        type(id_) is int
                        and 0 <= id_ <= _U64
                        and (deadline is None or (type(deadline) is float and _MIN_INF < deadline < _MAX_INF))
                        and (correlation is None or type(correlation) is str)
                        and (trace is None or type(trace) is str)
                    ):
                        frames.append(frame)
                        continue
                elif len(frame) == 3 and frame[0] is _REPLY:  # noqa: PLR2004
                    id_ = frame[1]
                    if type(id_) is int and 0 <= id_ <= _U64:
                        frames.append(frame)
                        continue
            if self._is_frame(frame):
                frames.append(frame)
        if start - HEADER_SIZE < end:
            self._partial += data[start - HEADER_SIZE :]
            self._unfinished = True
        return frames

    def _find_header(self, data: bytes | bytearray | memoryview, at: int) -> int:
        """Where the next header may begin; the end, or one byte before it, if there is none yet."""
        if not self._lost:
            self._lost = True
            self.garbled += 1
        found = bytes(data[at:]).find(_MAGIC_BYTES)
        if found >= 0:
            return at + found
        return len(data) - 1 if len(data) > at and data[-1] == _MAGIC_BYTES[0] else len(data)

    def _is_frame(self, value: Any) -> bool:
        """Whether a value is a frame; counts it if not, and puts the `Fault` in if there is one."""
        fault, self._reader.fault = self._reader.fault, None
        kind = value[0] if type(value) is list and value else None
        if type(kind) is not int:
            self.malformed += 1
            return False
        check = _CHECKS.get(kind)
        if check is None:
            self.unknown_kind += 1
            return False
        if not check(value):
            self.malformed += 1
            return False
        if fault is not None:
            value[_PAYLOAD[kind]] = Fault(fault)
            self.faults += 1
        return True

    def _resume(self, data: bytes | bytearray | memoryview) -> tuple[bytearray | None, memoryview]:
        """The unfinished frame if it is whole now, and the bytes that follow it."""
        rest = memoryview(data)
        if self._skip:
            return None, self._pass(self._skip, rest)
        partial = self._partial
        missing = max(HEADER_SIZE - len(partial), 0)
        partial += rest[:missing]
        rest = rest[missing:]
        if len(partial) < HEADER_SIZE:
            return None, rest
        magic, size, complement, _ = _read_header(partial)
        if size ^ complement != ALL_ONES or magic != MAGIC:
            # Not a header after all: looked through again, together with what follows it.
            self._partial = bytearray()
            self._unfinished = False
            return None, memoryview(bytes(partial) + bytes(rest))
        if size > self.max_frame:
            self.oversized += 1
            self._partial = bytearray()
            return None, self._pass(size, rest)
        missing = HEADER_SIZE + size - len(partial)
        partial += rest[:missing]
        rest = rest[missing:]
        if len(partial) < HEADER_SIZE + size:
            return None, rest
        self._partial = bytearray()
        self._unfinished = False
        return partial, rest

    def _pass(self, size: int, rest: memoryview) -> memoryview:
        """What follows the next `size` bytes, which are of an oversized frame."""
        passed = min(size, len(rest))
        self._skip = size - passed
        self._unfinished = self._skip > 0
        return rest[passed:]


# --- what each kind must look like; `type(...) is` because True is an int and 1.0 equals 1 ------------------


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _U64


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _U32


def _opening(frame: list[Any]) -> bool:
    if len(frame) != 6:  # noqa: PLR2004
        return False
    _, id_, deadline, correlation, trace, _ = frame
    return (
        type(id_) is int
        and 0 <= id_ <= _U64
        and (deadline is None or (type(deadline) in (float, int) and _MIN_INF < deadline < _MAX_INF))
        and (correlation is None or type(correlation) is str)
        and (trace is None or type(trace) is str)
    )


def _stream(frame: list[Any]) -> bool:
    return len(frame) == 7 and _opening(frame[:6]) and _is_count(frame[6])  # noqa: PLR2004


def _answer(frame: list[Any]) -> bool:
    return len(frame) == 3 and type(frame[1]) is int and 0 <= frame[1] <= _U64  # noqa: PLR2004


def _item(frame: list[Any]) -> bool:
    return len(frame) == 4 and _is_id(frame[1]) and _is_id(frame[2])  # noqa: PLR2004


def _credit(frame: list[Any]) -> bool:
    return len(frame) == 3 and _is_id(frame[1]) and _is_count(frame[2])  # noqa: PLR2004


def _bare(frame: list[Any]) -> bool:
    return len(frame) == 2 and _is_id(frame[1])  # noqa: PLR2004


_CHECKS: dict[int, Callable[[list[Any]], bool]] = {
    1: _opening,
    2: _answer,
    3: _answer,
    4: _opening,
    5: _stream,
    6: _item,
    7: _credit,
    8: _answer,
    9: _bare,
    10: _bare,
    11: _bare,
    12: _answer,
}
