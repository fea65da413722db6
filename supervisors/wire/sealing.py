"""Sealed frames: what two processes of one tree accept from each other on the control plane. Pure.

A frame is::

    magic 4 | length u32 | MAC 32 | instance 8 | seq u64 | sent u64 | port u16 | kind u8 | body
              of the rest   HMAC-SHA256 over everything but itself

All numbers are binary and of fixed size, so no digits of a stranger are ever parsed. The key is fresh for
every boot of a tree. `instance` names the sending process and is drawn anew after a fork; `seq` counts that
sender's frames to that port; `sent` is the sender's ``time.monotonic_ns()``, one clock for all processes of
a host; `port` is where the frame is meant to arrive: recorded on one port, it is worth nothing on another.

An acknowledgement repeats instance, seq and port of the frame that it answers and carries one `Verdict`; the
sender checks all of it. Nobody without the key can make it believe that a frame arrived, or was refused.

Used by `supervisors.wire.transport`: on the Thespian thread of every actor process, and in the threads of
whoever talks to the system from outside.
"""

import hmac
import itertools
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum, StrEnum
from typing import NamedTuple

MAGIC = b"SUP1"
KEY_BYTES = 32
MAX_FRAME = 4 << 20
"""Default bound of a frame's body, in bytes. The control plane is thin: what is bigger belongs on a link."""

_PREFIX = struct.Struct(">4sI")
_HEADER = struct.Struct(">8sQQHB")
_MAC_BYTES = 32
_HEADER_AT = _PREFIX.size + _MAC_BYTES
_BODY_AT = _HEADER_AT + _HEADER.size
_WINDOW = 4096
"""Frames that may overtake a retransmitted one; Thespian queues at most 1,050 for one target."""
_WINDOW_MASK = (1 << _WINDOW) - 1
_READ_AHEAD = 16384
"""Most frames are smaller: one read brings all of it; prefix and rest apart would cost two turns of the loop."""


class Rejection(StrEnum):
    """Why a frame, or the peer that sent it, was turned away. Each is the name of a counter."""

    MAGIC = "magic"
    OVERSIZE = "oversize"
    MAC = "mac"
    STALE = "stale"
    REPLAY = "replay"
    MISDIRECTED = "misdirected"
    REFUSED_CLASS = "refused_class"
    GARBLED = "garbled"
    SLOW = "slow"
    CROWDED = "crowded"


class Kind(IntEnum):
    """What a frame is."""

    DATA = 1
    ACK = 2


class Verdict(IntEnum):
    """What an acknowledgement says about the frame that it answers."""

    ACCEPTED = 1
    REFUSED = 2


class Header(NamedTuple):
    """The authenticated part of a frame besides its body."""

    instance: bytes
    seq: int
    sent_ns: int
    port: int
    kind: int


class Rejected(Exception):
    """Raised when bytes from a peer are not accepted; `header` is set when they are authentic all the same."""

    def __init__(self, reason: Rejection, header: Header | None = None) -> None:
        """Carry the reason, and the header when the MAC was right."""
        super().__init__(reason.value)
        self.reason = reason
        self.header = header


def check_key(key: bytes) -> bytes:
    """Return `key`, or raise ValueError when it is not 32 bytes. Its value is never part of the message."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ValueError(f"a sealing key is {KEY_BYTES} bytes, this one is {type(key).__name__} of {len(key)}")
    return key


def _frame(key: bytes, header: Header, body: bytes) -> bytes:
    prefix = _PREFIX.pack(MAGIC, _MAC_BYTES + _HEADER.size + len(body))
    sealed = _HEADER.pack(*header) + body
    return prefix + hmac.digest(key, prefix + sealed, "sha256") + sealed


def _authentic(key: bytes, frame: bytes) -> Header:
    if len(frame) < _BODY_AT:
        raise Rejected(Rejection.GARBLED)
    mac = hmac.digest(key, frame[: _PREFIX.size] + frame[_HEADER_AT:], "sha256")
    if not hmac.compare_digest(mac, frame[_PREFIX.size : _HEADER_AT]):
        raise Rejected(Rejection.MAC)
    return Header(*_HEADER.unpack_from(frame, _HEADER_AT))


class Sealer:
    """Seals the frames of one sender. Threads may share one: its counters are atomic under the interpreter's lock."""

    def __init__(
        self,
        key: bytes,
        *,
        new_instance: Callable[[], bytes],
        pid: Callable[[], int],
    ) -> None:
        """`new_instance` draws 8 random bytes; `pid` tells which process is using the sealer."""
        self._key = check_key(key)
        self._new_instance = new_instance
        self._pid = pid
        self._begin()

    def _begin(self) -> None:
        self._owner = self._pid()
        self._instance = self._new_instance()
        self._seqs: dict[int, Iterator[int]] = {}

    def seal(self, body: bytes, port: int, now_ns: int) -> bytes:
        """Return the frame that carries `body` to `port`. A process that inherited the sealer is a new sender."""
        if self._pid() != self._owner:
            self._begin()
        seqs = self._seqs.get(port) or self._seqs.setdefault(port, itertools.count(1))
        return _frame(self._key, Header(self._instance, next(seqs), now_ns, port, Kind.DATA), body)


def acknowledge(key: bytes, acked: Header, verdict: Verdict, now_ns: int) -> bytes:
    """Return the acknowledgement of the frame whose authentic header is `acked`."""
    return _frame(key, Header(acked.instance, acked.seq, now_ns, acked.port, Kind.ACK), bytes([verdict]))


def is_acknowledgement(frame: bytes) -> bool:
    """Whether a complete frame claims to be an acknowledgement; the claim is not authentic yet."""
    return len(frame) == _BODY_AT + 1 and frame[_BODY_AT - 1] == Kind.ACK


def verify_acknowledgement(key: bytes, sent: bytes, ack: bytes) -> Verdict:
    """Return what the receiver of our frame `sent` says of it; Rejected if `ack` is forged or answers another."""
    header = _authentic(key, ack)
    ours = Header(*_HEADER.unpack_from(sent, _HEADER_AT))
    if header.kind != Kind.ACK or header[:2] != ours[:2] or header.port != ours.port:
        raise Rejected(Rejection.MISDIRECTED, header)
    try:
        return Verdict(ack[_BODY_AT])
    except (ValueError, IndexError):
        raise Rejected(Rejection.GARBLED, header) from None


class _Window:
    """Which of one sender's last frames have been admitted."""

    __slots__ = ("admitted", "newest_ns", "top")

    def __init__(self) -> None:
        self.top = 0
        self.admitted = 0
        self.newest_ns = 0

    def check(self, header: Header) -> None:
        behind = self.top - header.seq
        if behind >= _WINDOW:
            raise Rejected(Rejection.STALE, header)
        if behind >= 0 and self.admitted >> behind & 1:
            raise Rejected(Rejection.REPLAY, header)

    def admit(self, header: Header) -> None:
        ahead = header.seq - self.top
        if ahead > 0:
            self.admitted = (self.admitted << min(ahead, _WINDOW) | 1) & _WINDOW_MASK
            self.top = header.seq
        else:
            self.admitted |= 1 << -ahead
        self.newest_ns = max(self.newest_ns, header.sent_ns)


class Opener:
    """Opens the frames that arrive at one port, each at most once.

    Memory is bounded: a sender whose newest frame is too old to be accepted again is forgotten; when `max_senders`
    are all recent, the one heard of longest ago is, and from then on no unknown sender's frame of that age or
    older is accepted.
    """

    def __init__(  # noqa: PLR0913 - three bounds, by name
        self,
        key: bytes,
        port: int,
        started_ns: int,
        *,
        max_age: float = 360.0,
        max_ahead: float = 1.0,
        max_senders: int = 4096,
    ) -> None:
        """`max_age` and `max_ahead` are seconds; Thespian retransmits for five minutes, less than that age."""
        self._key = check_key(key)
        self._port = port
        self._started_ns = started_ns
        self._max_age_ns = int(max_age * 1e9)
        self._max_ahead_ns = int(max_ahead * 1e9)
        self._max_senders = max_senders
        self._floor_ns = started_ns
        self._senders: dict[bytes, _Window] = {}

    def open(self, frame: bytes, now_ns: int) -> tuple[Header, bytes]:
        """Return header and body of a complete frame, or raise Rejected.

        The frame is not remembered yet: call `admit` once its body has been understood, so that a frame that was
        refused is refused again when it is sent again, and not taken for one that had arrived.
        """
        header = _authentic(self._key, frame)
        if header.kind != Kind.DATA:
            raise Rejected(Rejection.GARBLED, header)
        if header.port != self._port:
            raise Rejected(Rejection.MISDIRECTED, header)
        oldest_ns = max(self._started_ns, now_ns - self._max_age_ns)
        if not oldest_ns <= header.sent_ns <= now_ns + self._max_ahead_ns:
            raise Rejected(Rejection.STALE, header)
        window = self._senders.get(header.instance)
        if window is not None:
            window.check(header)
        elif header.sent_ns < self._floor_ns:
            raise Rejected(Rejection.STALE, header)
        return header, frame[_BODY_AT:]

    def admit(self, header: Header, now_ns: int) -> None:
        """Remember a frame that `open` returned: the same frame is a replay from now on."""
        window = self._senders.get(header.instance)
        if window is None:
            if len(self._senders) >= self._max_senders:
                self._forget(now_ns)
            window = self._senders[header.instance] = _Window()
        window.admit(header)

    def _forget(self, now_ns: int) -> None:
        oldest_allowed = now_ns - self._max_age_ns
        for instance in [i for i, w in self._senders.items() if w.newest_ns < oldest_allowed]:
            del self._senders[instance]
        if len(self._senders) >= self._max_senders:
            instance, window = min(self._senders.items(), key=lambda item: item[1].newest_ns)
            del self._senders[instance]
            self._floor_ns = max(self._floor_ns, window.newest_ns + 1)


class SealedBuffer:
    """Collects the bytes of one frame from a stream, in the place of Thespian's ``ReceiveBuffer``: hence the names.

    It holds at most one frame with at most `max_body` bytes of body, and what one read brought beyond it. It
    understands nothing: opening the frame is `Opener`'s part.
    """

    def __init__(self, max_body: int = MAX_FRAME) -> None:
        """Wait for a frame from its first byte."""
        self._max_length = max_body + _MAC_BYTES + _HEADER.size
        self._data = bytearray()
        self._need = 0
        self._extra = b""

    def addMore(self, buf: bytes) -> None:  # noqa: N802 - Thespian's name
        """Take the bytes of one read; Rejected at the first that cannot belong to an acceptable frame."""
        self._data += buf
        if not self._need:
            if not MAGIC.startswith(self._data[: len(MAGIC)]):
                raise Rejected(Rejection.MAGIC)
            if len(self._data) < _PREFIX.size:
                return
            length = _PREFIX.unpack_from(self._data)[1]
            if length > self._max_length:
                raise Rejected(Rejection.OVERSIZE)
            if length < _MAC_BYTES + _HEADER.size:
                raise Rejected(Rejection.GARBLED)
            self._need = _PREFIX.size + length
        if len(self._data) > self._need:
            self._extra += bytes(self._data[self._need :])
            del self._data[self._need :]

    def is_empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not self._data

    def remainingAmount(self) -> int:  # noqa: N802
        """How many bytes to ask for in the next read; at least 1 until the frame is complete."""
        return self._need - len(self._data) if self._need else _READ_AHEAD

    def isDone(self) -> bool:  # noqa: N802
        """Whether the frame is complete."""
        return bool(self._need) and len(self._data) == self._need

    def removeExtra(self) -> None:  # noqa: N802
        """Drop what came after the frame."""
        self._extra = b""

    def completed(self) -> tuple[bytes, bytes] | None:
        """The frame and what came after it, or None while it is incomplete."""
        return (bytes(self._data), self._extra) if self.isDone() else None
