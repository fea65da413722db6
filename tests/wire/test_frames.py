"""The frames of a link: what goes out, what comes in, and what becomes of frames that are no good."""

import dataclasses
import itertools
import math
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisors.errors import FrameTooLarge, GarbledFrame, UnknownWireType, UnsupportedValue
from supervisors.wire import frames, registered
from supervisors.wire.codec import register
from supervisors.wire.frame_decoder import HEADER_SIZE, header
from supervisors.wire.frames import MAX_FRAME, Fault, FrameDecoder, FrameStatistics, Kind

pytestmark = pytest.mark.timeout(60)

U64 = 2**64 - 1
U32 = 2**32 - 1
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

ENCODED: list[tuple[bytes, list[Any]]] = [
    (frames.encode_call(1, 12.5, "c", TRACE, {"op": "add"}), [1, 1, 12.5, "c", TRACE, {"op": "add"}]),
    (frames.encode_call(U64, None, None, None, None), [1, U64, None, None, None, None]),
    (frames.encode_reply(0, (1, 2)), [2, 0, (1, 2)]),
    (frames.encode_error(3, "no"), [3, 3, "no"]),
    (frames.encode_cast(4, 7, None, None, [1]), [4, 4, 7, None, None, [1]]),
    (frames.encode_stream(5, 1e9, None, TRACE, "go", 8), [5, 5, 1e9, None, TRACE, "go", 8]),
    (frames.encode_item(6, U64, {3}), [6, 6, U64, {3}]),
    (frames.encode_credit(7, U32), [7, 7, U32]),
    (frames.encode_end(8), [8, 8, None]),
    (frames.encode_end(8, 12), [8, 8, 12]),
    (frames.encode_cancel(9), [9, 9]),
    (frames.encode_ping(10), [10, 10]),
    (frames.encode_pong(11), [11, 11]),
    (frames.encode_goaway(12, "why"), [12, 12, "why"]),
]


@dataclasses.dataclass
class Job:
    number: int


@pytest.fixture(autouse=True)
def registrations() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    by_class, by_name = dict(registered.by_class), dict(registered.by_name)
    yield
    for table, before in ((registered.by_class, by_class), (registered.by_name, by_name)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


def framed(body: bytes) -> bytes:
    """Any bytes as one frame."""
    return header(body) + body


def raw(*elements: Any) -> bytes:
    """A frame of plain elements, good or not."""
    return framed(msgpack.packb(list(elements)))


def counted(decoder: FrameDecoder) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: count for name, count in dataclasses.asdict(decoder.statistics()).items() if count}


GOOD = frames.encode_call(77, 1.5, None, None, "good")
GOOD_FRAME = [1, 77, 1.5, None, None, "good"]


# --- out and in ---------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_kinds_are_part_of_the_wire() -> None:
    """They are never renumbered."""
    assert {kind.name: int(kind) for kind in Kind} == {
        "CALL": 1,
        "REPLY": 2,
        "ERROR": 3,
        "CAST": 4,
        "STREAM": 5,
        "ITEM": 6,
        "CREDIT": 7,
        "END": 8,
        "CANCEL": 9,
        "PING": 10,
        "PONG": 11,
        "GOAWAY": 12,
    }


@pytest.mark.parametrize("data, frame", ENCODED)
def test_every_kind_goes_out_and_comes_in(data: bytes, frame: list[Any]) -> None:
    """The length stands before the body, and the decoder gives back the array."""
    assert data[:HEADER_SIZE] == header(data[HEADER_SIZE:])
    decoder = FrameDecoder()
    assert decoder.feed(data) == [frame]
    assert type(decoder.feed(data)[0][0]) is int
    assert counted(decoder) == {}


@given(
    st.lists(st.sampled_from(ENCODED), max_size=12),
    st.lists(st.integers(0, 600), max_size=8),
    st.sampled_from([bytes, bytearray, memoryview]),
)
@example([*ENCODED, *ENCODED], list(range(600)), bytes)
def test_frames_arrive_however_the_stream_is_cut(
    chosen: list[tuple[bytes, list[Any]]], cuts: list[int], kind: Callable[[bytes], Any]
) -> None:
    """Cut anywhere, into any number of pieces of any bytes type: the same frames in the same order."""
    stream = b"".join(data for data, _ in chosen)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = FrameDecoder()
    got = [frame for start, stop in itertools.pairwise(edges) for frame in decoder.feed(kind(stream[start:stop]))]
    assert got == [frame for _, frame in chosen]
    assert counted(decoder) == {}


@pytest.mark.parametrize("size", [900, 1100, 70_000, 2_000_000])
@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_frames_of_every_size_survive_small_pieces(size: int, piece: int) -> None:
    """Below and above the size from which bodies are checked first; with a frame right after it."""
    if size // piece > 100_000:
        piece = 4097
    stream = frames.encode_reply(1, b"x" * size) + GOOD
    decoder = FrameDecoder()
    got = [frame for at in range(0, len(stream), piece) for frame in decoder.feed(stream[at : at + piece])]
    assert got == [[2, 1, b"x" * size], GOOD_FRAME]


def test_the_decoder_keeps_no_hold_of_its_input() -> None:
    """A receive buffer may be reused and resized as soon as `feed` returns."""
    buffer = bytearray(frames.encode_reply(1, b"x" * 5000) + frames.encode_reply(2, (1,)) + GOOD[:9])
    decoder = FrameDecoder()
    got = decoder.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    buffer.extend(b"more")  # a BufferError if anything still looked into it
    assert got == [[2, 1, b"x" * 5000], [2, 2, (1,)]]
    assert decoder.feed(GOOD[9:]) == [GOOD_FRAME]


# --- refused before anything is sent ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encode, path",
    [
        (lambda bad: frames.encode_call(1, 1.0, None, None, {"user": {"tags": [1, 2, bad]}}), "message['user']['tags'][2]"),
        (lambda bad: frames.encode_cast(1, None, None, None, bad), "message"),
        (lambda bad: frames.encode_stream(1, None, None, None, (bad,), 1), "message[0]"),
        (lambda bad: frames.encode_reply(1, [bad]), "value[0]"),
        (lambda bad: frames.encode_error(1, bad), "error"),
        (lambda bad: frames.encode_item(1, 0, {1: bad}), "value[1]"),
        (lambda bad: frames.encode_end(1, bad), "outcome"),
        (lambda bad: frames.encode_call(1, None, bad, None, None), "correlation"),
    ],
)
def test_a_value_that_cannot_travel_is_named_within_its_frame(encode: Callable[[Any], bytes], path: str) -> None:
    """The path begins with the name of the element."""
    with pytest.raises(UnsupportedValue) as caught:
        encode(object())
    assert (caught.value.path, caught.value.type_name) == (path, "object")
    assert FrameDecoder().feed(encode("fine"))


def test_a_frame_over_the_limit_is_refused_and_one_at_the_limit_passes() -> None:
    """The limit counts the bytes of the body, on both sides alike."""
    size = len(frames.encode_reply(1, b"x" * 1000)) - HEADER_SIZE
    data = frames.encode_reply(1, b"x" * 1000, size)
    assert FrameDecoder(size).feed(data) == [[2, 1, b"x" * 1000]]
    with pytest.raises(FrameTooLarge) as caught:
        frames.encode_reply(1, b"x" * 1001, size)
    assert (caught.value.size, caught.value.limit) == (size + 1, size)
    with pytest.raises(FrameTooLarge):
        frames.encode_call(1, None, None, None, b"x" * MAX_FRAME)


# --- what is no good harms only itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\x02\x01",  # ends early
        b"\x93\x02\x01\xc0\xc0",  # ends late
        b"\x93\x02\x01\xa2\xff\xff",  # not UTF-8
        b"\x93\x02\x01\x81\x90\x01",  # a list as a key
        b"\x93\x02\x01" + b"\x91" * 5000 + b"\xc0",  # too deep
        b"\xdd\xff\xff\xff\xff" * 100,
        b"\xdd\x00\x0f\xff\xff" * 1000 + b"\xc0" * 5000,
    ],
)
def test_a_garbled_frame_is_dropped_and_counted(body: bytes) -> None:
    """The frames before and after it arrive."""
    decoder = FrameDecoder()
    assert decoder.feed(GOOD + framed(body) + GOOD) == [GOOD_FRAME, GOOD_FRAME]
    assert counted(decoder) == {"garbled": 1}


@pytest.mark.parametrize(
    "body",
    [
        7,
        None,
        "CALLED",
        {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6},
        [],
        [None, 1],
        ["1", 1, None, None, None, None],
        [1.0, 1, None, None, None, None],
        [True, 1, None, None, None, None],
        [[1], 1],
        [1],
        [1, 2],
        [1, 2, None, None, None],
        [1, 2, None, None, None, None, None],
        [1, -1, None, None, None, None],
        [1, True, None, None, None, None],
        [1, 1.0, None, None, None, None],
        [1, "1", None, None, None, None],
        [1, 1, "soon", None, None, None],
        [1, 1, True, None, None, None],
        [1, 1, math.nan, None, None, None],
        [1, 1, math.inf, None, None, None],
        [1, 1, -math.inf, None, None, None],
        [1, 1, None, 7, None, None],
        [1, 1, None, b"c", None, None],
        [1, 1, None, None, 7, None],
        [1, msgpack.ExtType(1, b"\x01" + bytes(8)), None, None, None, None],  # an id of 2**64
        [1, 1, msgpack.ExtType(99, b""), None, None, None],  # an unknown value in the header
        [4, None, None, None, None, None],
        [5, 1, None, None, None, None],
        [5, 1, None, None, None, None, -1],
        [5, 1, None, None, None, None, U32 + 1],
        [5, 1, None, None, None, None, None],
        [5, 1, math.nan, None, None, None, 1],
        [2, 1],
        [2, 1, 2, 3],
        [2, -1, None],
        [2, None, None],
        [2, False, None],
        [3, 1.5, None],
        [6, 1, 2],
        [6, 1, -2, None],
        [6, 1, "2", None],
        [7, 1],
        [7, 1, -1],
        [7, 1, U32 + 1],
        [7, 1, 1.0],
        [7, 1, msgpack.ExtType(99, b"")],
        [8, 1],
        [9],
        [9, -1],
        [10, 1, 2],
        [11, "1"],
        [10, msgpack.ExtType(99, b"")],
    ],
)
def test_a_malformed_frame_is_dropped_and_counted(body: Any) -> None:
    """Wrong number of elements or wrong types in the header; True is not 1 and 1.0 is not 1."""
    decoder = FrameDecoder()
    assert decoder.feed(GOOD + framed(msgpack.packb(body)) + GOOD) == [GOOD_FRAME, GOOD_FRAME]
    assert counted(decoder) == {"malformed": 1}


@pytest.mark.parametrize("kind", [0, 13, -1, 127, 255, 2**40])
def test_an_unknown_kind_is_dropped_and_counted(kind: int) -> None:
    """A newer peer may say more than this one understands."""
    decoder = FrameDecoder()
    assert decoder.feed(raw(kind, 1) + raw(kind) + raw(kind, *range(20)) + GOOD) == [GOOD_FRAME]
    assert counted(decoder) == {"unknown_kind": 3}


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 64, 1000, 100_000])
def test_an_oversized_frame_is_passed_over_without_being_kept(piece: int) -> None:
    """In one piece or many; the frames around it arrive, and its bytes are never held."""
    decoder = FrameDecoder(100)
    small = frames.encode_reply(1, b"x" * 50)
    stream = small + framed(b"\xc0" * 101) + small + framed(b"\xc1" * 3000) * 2 + small
    got = []
    for at in range(0, len(stream), piece):
        got += decoder.feed(stream[at : at + piece])
        assert len(decoder._partial) <= 100 + HEADER_SIZE
    assert got == [[2, 1, b"x" * 50]] * 3
    assert counted(decoder) == {"oversized": 3}


def test_an_absurd_length_is_only_an_oversized_frame() -> None:
    """Four gigabytes are announced: nothing is reserved and nothing kept while they come."""
    decoder = FrameDecoder()
    chunk = bytes(1 << 20)
    tracemalloc.start()
    try:
        announced = struct.pack(">HIII", 0xD5F0, U32, 0, 0)
        assert decoder.feed(GOOD + announced) == [GOOD_FRAME]
        for _ in range(64):
            assert decoder.feed(chunk) == []
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    decoder._skip = 5  # as if the rest had come
    assert decoder.feed(b"12345" + GOOD) == [GOOD_FRAME]
    assert counted(decoder) == {"oversized": 1}


def test_an_unfinished_frame_is_held_once() -> None:
    """A large frame in thousands of pieces costs little more than itself: pieces are not kept apart or copied again."""
    size = 8 << 20
    stream = frames.encode_reply(1, bytes(size))
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        for at in range(0, size, 1024):
            assert decoder.feed(stream[at : at + 1024]) == []
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()
    assert decoder.feed(stream[size:]) == [[2, 1, bytes(size)]]


# --- payloads that cannot be made here ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, where",
    [
        (lambda job: frames.encode_call(1, 2.0, "c", TRACE, job), 5),
        (lambda job: frames.encode_cast(1, 2.0, "c", TRACE, {"jobs": [job]}), 5),
        (lambda job: frames.encode_stream(1, 2.0, "c", TRACE, (job, 1), 3), 5),
        (lambda job: frames.encode_reply(1, {1: (job, job)}), 2),
        (lambda job: frames.encode_error(1, job), 2),
        (lambda job: frames.encode_item(1, 4, [[job]]), 3),
        (lambda job: frames.encode_end(1, job), 2),
    ],
)
def test_an_unknown_type_leaves_the_header_intact(data: Callable[[Any], bytes], where: int) -> None:
    """The payload is replaced by a `Fault` with the name; header, neighbours and later frames are as they were."""
    register(Job, name="app.Job")
    sent, plain = data(Job(1)), FrameDecoder().feed(data("plain"))[0]
    del registered.by_name["app.Job"]
    decoder = FrameDecoder()
    faulty, after = decoder.feed(sent + GOOD)
    fault = faulty[where]
    assert type(fault) is Fault
    assert isinstance(fault.error, UnknownWireType)
    assert fault.error.name == "app.Job"
    assert repr(fault) == "Fault(UnknownWireType('app.Job'))"
    assert [faulty[at] for at in range(len(faulty)) if at != where] == [plain[at] for at in range(len(plain)) if at != where]
    assert after == GOOD_FRAME
    assert counted(decoder) == {"faults": 1}


def test_a_state_that_its_class_refuses_is_a_fault() -> None:
    """So the caller learns why, instead of waiting for its deadline."""

    def from_wire(state: Any) -> Job:
        raise ValueError(f"no job has number {state}")

    register(Job, name="app.Job", to_wire=lambda job: job.number, from_wire=from_wire)
    (frame,) = FrameDecoder().feed(frames.encode_call(1, None, None, None, Job(3)))
    assert isinstance(frame[5].error, GarbledFrame)
    assert str(frame[5].error) == "app.Job refused its state: ValueError: no job has number 3"


def test_a_fault_does_not_outlive_a_frame_that_is_dropped() -> None:
    """An unknown value in a malformed, unknown or garbled frame is no fault of the next one."""
    unknown = msgpack.ExtType(99, b"")
    decoder = FrameDecoder()
    for dropped in (
        raw(1, unknown, None, None, None, None),
        raw(99, unknown),
        raw(unknown),
        framed(msgpack.packb(unknown)),
        framed(msgpack.packb([unknown]) + b"\xc1"),
        framed(b"\x92" + msgpack.packb(unknown) + b"\xc1"),
    ):
        assert decoder.feed(dropped + GOOD) == [GOOD_FRAME]
    assert decoder.statistics() == FrameStatistics(garbled=2, oversized=0, unknown_kind=1, malformed=3, faults=0)


# --- any bytes at all ---------------------------------------------------------------------------------------------

LIMIT = 2000


def survives(decoder: FrameDecoder, stream: bytes, chance: random.Random) -> list[list[Any]]:
    """Feed a stream in random pieces; the decoder holds no more than one frame at any time."""
    got, at = [], 0
    while at < len(stream):
        piece = chance.choice((1, 2, 5, 17, 100, 4096))
        got += decoder.feed(stream[at : at + piece])
        at += piece
        assert len(decoder._partial) <= decoder.max_frame + HEADER_SIZE
    for frame in got:
        assert type(frame) is list
        assert frame[0] in list(Kind)
        assert 0 <= frame[1] <= U64
    return got


@given(st.binary(max_size=400), st.randoms(use_true_random=False))
def test_no_bytes_make_the_decoder_raise(stream: bytes, chance: random.Random) -> None:
    """Random bytes in random pieces are frames or counts."""
    survives(FrameDecoder(LIMIT), stream, chance)


@given(st.lists(st.binary(max_size=40), max_size=20), st.randoms(use_true_random=False))
def test_no_frame_bodies_make_the_decoder_raise(bodies: list[bytes], chance: random.Random) -> None:
    """Random bodies behind true lengths: each is a frame or exactly one count, and the stream stays in step."""
    decoder = FrameDecoder(LIMIT)
    got = survives(decoder, b"".join(map(framed, bodies)) + GOOD, chance)
    assert got[-1] == GOOD_FRAME
    counts = decoder.statistics()
    dropped = counts.garbled + counts.malformed + counts.unknown_kind + counts.oversized
    assert len(got) + dropped == len(bodies) + 1


@given(st.sampled_from(ENCODED), st.data(), st.randoms(use_true_random=False))
def test_one_wrong_byte_anywhere_harms_only_its_frame(
    chosen: tuple[bytes, list[Any]], data: st.DataObject, chance: random.Random
) -> None:
    """In header or body: that frame is dropped and counted, never taken for another; those around it arrive unchanged."""
    broken = bytearray(chosen[0])
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = FrameDecoder(LIMIT)
    assert survives(decoder, GOOD + broken + GOOD + GOOD, chance) == [GOOD_FRAME] * 3
    assert decoder.statistics().garbled == 1


@given(st.binary(min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_noise_between_frames_is_passed_over(noise: bytes, chance: random.Random) -> None:
    """Bytes that belong to no frame cost no frame: the next header is found again."""
    decoder = FrameDecoder(LIMIT)
    assert survives(decoder, GOOD + noise + GOOD, chance) == [GOOD_FRAME] * 2
    assert decoder.statistics().garbled >= 1


def test_a_million_random_bytes_are_survived() -> None:
    """Noise behind true lengths, good frames with random bytes changed, and pure noise, in random pieces."""
    chance = random.Random(2)
    good = b"".join(data for data, _ in ENCODED)
    dropped = 0
    for _ in range(200):
        noise = b"".join(framed(chance.randbytes(chance.randrange(40))) for _ in range(100))
        changed = bytearray(good * 3)
        for _ in range(chance.randrange(8)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        for stream in (noise, bytes(changed), chance.randbytes(1000)):
            decoder = FrameDecoder(LIMIT)
            survives(decoder, stream, chance)
            dropped += sum(dataclasses.asdict(decoder.statistics()).values())
    assert dropped > 10_000
