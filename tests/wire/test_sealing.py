"""Sealed frames: authentic, fresh, meant for this port, bounded; and their acknowledgements."""

import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors.wire.sealing import (
    MAGIC,
    MAX_FRAME,
    Header,
    Kind,
    Opener,
    Rejected,
    Rejection,
    SealedBuffer,
    Sealer,
    Verdict,
    acknowledge,
    check_key,
    is_acknowledgement,
    verify_acknowledgement,
)

pytestmark = pytest.mark.timeout(20)

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
PORT = 4711
SECOND = 1_000_000_000
START = 1000 * SECOND
NOW = START + 10 * SECOND
OVERHEAD = 67
"""bytes of a frame besides its body"""


def a_sealer(key: bytes = KEY, pid: Callable[[], int] = lambda: 1) -> Sealer:
    """A sealer whose instances are 1, 2, ..."""
    drawn = itertools.count(1)
    return Sealer(key, new_instance=lambda: next(drawn).to_bytes(8, "big"), pid=pid)


def an_opener(**options: float) -> Opener:
    """An opener for `PORT`, with other bounds when they are given."""
    return Opener(KEY, PORT, START, **options)  # type: ignore[arg-type]


def reason_of(act: Callable[[], object]) -> Rejection:
    """Why `act` is rejected."""
    with pytest.raises(Rejected) as caught:
        act()
    return caught.value.reason


def test_a_frame_opens_to_what_was_sealed() -> None:
    """Body and header arrive as they were sealed, and the frame's size is fixed besides the body."""
    frame = a_sealer().seal(b"body", PORT, NOW)
    header, body = an_opener().open(frame, NOW)
    assert body == b"body"
    assert header == Header((1).to_bytes(8, "big"), 1, NOW, PORT, Kind.DATA)
    assert len(frame) == OVERHEAD + 4
    assert frame.startswith(MAGIC)


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused_without_being_shown(key: bytes) -> None:
    """A key is 32 bytes; the error tells the length only."""
    with pytest.raises(ValueError, match=f"of {len(key)}$"):
        check_key(key)


@given(st.binary(max_size=40), st.data())
def test_no_changed_byte_goes_unnoticed(body: bytes, data: st.DataObject) -> None:
    """A frame with any one byte changed is refused: by the MAC, or as impossible to read."""
    frame = bytearray(a_sealer().seal(body, PORT, NOW))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    assert reason_of(lambda: an_opener().open(bytes(frame), NOW)) is Rejection.MAC


@given(st.binary(max_size=OVERHEAD - 1))
def test_a_frame_too_short_to_be_one_is_garbled(frame: bytes) -> None:
    """Less than the fixed part of a frame is refused before any MAC is computed."""
    assert reason_of(lambda: an_opener().open(frame, NOW)) is Rejection.GARBLED


def test_another_key_is_refused() -> None:
    """What another boot of the tree sealed means nothing to this one."""
    frame = a_sealer(OTHER_KEY).seal(b"", PORT, NOW)
    assert reason_of(lambda: an_opener().open(frame, NOW)) is Rejection.MAC


def test_a_frame_for_another_port_is_refused() -> None:
    """A frame recorded on its way to one port cannot be delivered at another."""
    frame = a_sealer().seal(b"", PORT + 1, NOW)
    assert reason_of(lambda: an_opener().open(frame, NOW)) is Rejection.MISDIRECTED


@pytest.mark.parametrize(
    "sent",
    [START - 1, NOW + 2 * SECOND],
    ids=["before the receiver's start", "from the future"],
)
def test_a_frame_from_another_time_is_stale(sent: int) -> None:
    """A frame sealed before the receiver began, or later than now, is refused."""
    frame = a_sealer().seal(b"", PORT, sent)
    assert reason_of(lambda: an_opener().open(frame, NOW)) is Rejection.STALE


def test_a_frame_grows_stale() -> None:
    """A frame is acceptable for `max_age` seconds and not a nanosecond longer."""
    frame = a_sealer().seal(b"", PORT, NOW)
    opener = an_opener(max_age=60.0)
    opener.open(frame, NOW + 60 * SECOND)
    assert reason_of(lambda: opener.open(frame, NOW + 60 * SECOND + 1)) is Rejection.STALE


def test_an_admitted_frame_is_a_replay() -> None:
    """A frame is delivered once; repeated, it is authentic and a replay."""
    opener = an_opener()
    frame = a_sealer().seal(b"", PORT, NOW)
    header, _ = opener.open(frame, NOW)
    opener.admit(header, NOW)
    with pytest.raises(Rejected) as caught:
        opener.open(frame, NOW)
    assert caught.value.reason is Rejection.REPLAY
    assert caught.value.header == header


def test_a_frame_that_was_not_understood_is_judged_again() -> None:
    """Opening alone does not use a frame up: only `admit` does."""
    opener = an_opener()
    frame = a_sealer().seal(b"", PORT, NOW)
    assert opener.open(frame, NOW) == opener.open(frame, NOW)


@given(st.permutations(range(12)))
def test_frames_may_overtake_each_other_and_arrive_once_each(order: list[int]) -> None:
    """In whatever order frames come, each is accepted the first time and a replay the second."""
    sealer, opener = a_sealer(), an_opener()
    frames = [sealer.seal(bytes([n]), PORT, NOW + n) for n in range(12)]
    for n in order:
        header, body = opener.open(frames[n], NOW + SECOND)
        assert body == bytes([n])
        opener.admit(header, NOW + SECOND)
    for frame in frames:
        assert reason_of(lambda frame=frame: opener.open(frame, NOW + SECOND)) is Rejection.REPLAY  # type: ignore[misc]


def test_a_frame_behind_the_window_is_stale_not_delivered() -> None:
    """What was overtaken by thousands cannot be told from a replay; it is refused, never acknowledged."""
    sealer, opener = a_sealer(), an_opener()
    late, *frames = [sealer.seal(b"", PORT, NOW) for _ in range(5000)]
    header, _ = opener.open(frames[-1], NOW)
    opener.admit(header, NOW)
    assert reason_of(lambda: opener.open(late, NOW)) is Rejection.STALE
    opener.open(frames[-1000], NOW)


def test_each_port_has_its_own_sequence() -> None:
    """Traffic to one port does not push another port's frames out of their window."""
    sealer = a_sealer()
    assert [sealer.seal(b"", port, NOW)[48:56] for port in (1, 1, 2)] == [struct.pack(">Q", seq) for seq in (1, 2, 1)]


def test_a_forked_process_is_a_new_sender() -> None:
    """After a fork a sealer draws a new instance: parent and child never seal under the same numbers."""
    pid = 1
    sealer = a_sealer(pid=lambda: pid)
    before = sealer.seal(b"", PORT, NOW)
    pid = 2
    opener = an_opener()
    seen = [opener.open(frame, NOW)[0] for frame in (before, sealer.seal(b"", PORT, NOW))]
    assert [(header.instance[-1], header.seq) for header in seen] == [(1, 1), (2, 1)]


def test_the_memory_of_senders_is_bounded_and_forgetting_lets_no_replay_in() -> None:
    """With more senders than it remembers, an opener forgets the quietest and refuses its old frames."""
    opener = an_opener(max_senders=3)
    frames = []
    for n in range(10):
        sealer = Sealer(KEY, new_instance=lambda n=n: bytes([n]) * 8, pid=lambda: 1)  # type: ignore[misc]
        frames.append(sealer.seal(b"", PORT, NOW + n))
        opener.admit(opener.open(frames[-1], NOW + n)[0], NOW + n)
    assert len(opener._senders) == 3
    reasons = {reason_of(lambda f=f: opener.open(f, NOW + SECOND)) for f in frames}  # type: ignore[misc]
    assert reasons == {Rejection.STALE, Rejection.REPLAY}


def test_senders_that_fell_silent_are_forgotten_first() -> None:
    """A sender whose newest frame is too old to be accepted anyhow makes room without any loss."""
    opener = an_opener(max_senders=2, max_age=60.0)
    for n, sent in enumerate([NOW, NOW + 100 * SECOND, NOW + 101 * SECOND]):
        sealer = Sealer(KEY, new_instance=lambda n=n: bytes([n]) * 8, pid=lambda: 1)  # type: ignore[misc]
        opener.admit(opener.open(sealer.seal(b"", PORT, sent), sent)[0], sent)
    assert sorted(opener._senders) == [bytes([1]) * 8, bytes([2]) * 8]
    late = Sealer(KEY, new_instance=lambda: bytes([9]) * 8, pid=lambda: 1).seal(b"", PORT, NOW + 50 * SECOND)
    opener.open(late, NOW + 101 * SECOND)


# --- acknowledgements


def test_an_acknowledgement_answers_the_frame_it_was_made_for() -> None:
    """The sender learns the verdict on its own frame."""
    frame = a_sealer().seal(b"body", PORT, NOW)
    header, _ = an_opener().open(frame, NOW)
    for verdict in Verdict:
        ack = acknowledge(KEY, header, verdict, NOW)
        assert is_acknowledgement(ack)
        assert verify_acknowledgement(KEY, frame, ack) is verdict


def test_an_acknowledgement_of_another_frame_is_refused() -> None:
    """An authentic acknowledgement that was made for another frame proves nothing."""
    sealer, opener = a_sealer(), an_opener()
    first, second = sealer.seal(b"", PORT, NOW), sealer.seal(b"", PORT, NOW)
    ack = acknowledge(KEY, opener.open(first, NOW)[0], Verdict.ACCEPTED, NOW)
    assert reason_of(lambda: verify_acknowledgement(KEY, second, ack)) is Rejection.MISDIRECTED


@given(st.data())
def test_no_changed_byte_of_an_acknowledgement_goes_unnoticed(data: st.DataObject) -> None:
    """A verdict cannot be turned, nor an acknowledgement be made, without the key."""
    frame = a_sealer().seal(b"", PORT, NOW)
    ack = bytearray(acknowledge(KEY, an_opener().open(frame, NOW)[0], Verdict.REFUSED, NOW))
    ack[data.draw(st.integers(0, len(ack) - 1))] ^= data.draw(st.integers(1, 255))
    assert reason_of(lambda: verify_acknowledgement(KEY, frame, bytes(ack))) is Rejection.MAC


def test_an_acknowledgement_is_not_a_message_nor_the_reverse() -> None:
    """Neither kind of frame passes for the other."""
    frame = a_sealer().seal(b"x", PORT, NOW)
    ack = acknowledge(KEY, an_opener().open(frame, NOW)[0], Verdict.ACCEPTED, NOW)
    assert reason_of(lambda: an_opener().open(ack, NOW)) is Rejection.GARBLED
    assert not is_acknowledgement(frame)
    assert reason_of(lambda: verify_acknowledgement(KEY, frame, frame)) is Rejection.MISDIRECTED


# --- the buffer


@given(st.binary(max_size=300), st.binary(max_size=100), st.data())
def test_the_buffer_finds_the_frame_however_it_is_cut(body: bytes, extra: bytes, data: st.DataObject) -> None:
    """In whatever pieces the bytes come, the frame is complete with its last byte and the rest is kept."""
    frame = a_sealer().seal(body, PORT, NOW)
    buffer, stream = SealedBuffer(), frame + extra
    while stream and not buffer.isDone():
        assert buffer.remainingAmount() > 0
        size = data.draw(st.integers(1, len(stream)))
        buffer.addMore(stream[:size])
        stream = stream[size:]
    completed = buffer.completed()
    assert completed is not None
    assert completed[0] == frame
    assert completed[1] + stream == extra
    buffer.removeExtra()
    assert buffer.completed() == (frame, b"")


def test_a_new_buffer_is_empty_and_incomplete() -> None:
    """Before the first byte there is nothing to be had."""
    buffer = SealedBuffer()
    assert buffer.is_empty()
    assert not buffer.isDone()
    assert buffer.completed() is None
    buffer.addMore(MAGIC[:1])
    assert not buffer.is_empty()


@pytest.mark.parametrize("first", [b"\x80", b"4", b"12345>", b"S\x00", b"SUP0" + bytes(60), b"GET / HTTP/1.1"])
def test_the_first_strange_byte_is_refused(first: bytes) -> None:
    """Whoever does not begin as a frame begins is turned away at that byte: pickles, digits, other protocols."""
    assert reason_of(lambda: SealedBuffer().addMore(first)) is Rejection.MAGIC


@pytest.mark.parametrize("length", [MAX_FRAME + OVERHEAD - 8 + 1, 2**31, 2**32 - 1])
def test_an_oversized_frame_is_refused_at_its_length(length: int) -> None:
    """A frame larger than the bound is refused when it announces its size, before its bytes are collected."""
    assert reason_of(lambda: SealedBuffer().addMore(MAGIC + struct.pack(">I", length))) is Rejection.OVERSIZE


def test_the_largest_frame_passes() -> None:
    """The bound is on the body, and inclusive."""
    frame = a_sealer().seal(bytes(1000), PORT, NOW)
    buffer = SealedBuffer(1000)
    buffer.addMore(frame)
    assert buffer.isDone()
    assert reason_of(lambda: SealedBuffer(999).addMore(frame)) is Rejection.OVERSIZE


@pytest.mark.parametrize("length", [0, 1, OVERHEAD - 8 - 1])
def test_a_frame_shorter_than_its_header_is_refused(length: int) -> None:
    """A length that cannot hold MAC and header is garbled."""
    assert reason_of(lambda: SealedBuffer().addMore(MAGIC + struct.pack(">I", length))) is Rejection.GARBLED


@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_never_open(noise: bytes) -> None:
    """Noise is refused at its first strange byte, or stays an incomplete frame of bounded size."""
    buffer = SealedBuffer(1000)
    try:
        buffer.addMore(noise)
    except Rejected:
        return
    assert not buffer.isDone()
    assert buffer.remainingAmount() > 0
