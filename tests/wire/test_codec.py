"""The value codec: exact round trips, refusals that name the field, and nothing that bytes could do to the reader."""

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import math
import socket
import subprocess
import sys
import threading
import tracemalloc
import uuid
import zoneinfo
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisors.errors import GarbledFrame, UnknownWireType, UnsupportedValue
from supervisors.wire import registered
from supervisors.wire.codec import MAX_NESTING, Reader, pack, register, unpack, wire_type

pytestmark = pytest.mark.timeout(60)

UTC = dt.UTC
WIDE = 2**200


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in type and in every bit that matters; NaN is the same as NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == other.as_tuple())
    if isinstance(one, dt.datetime | dt.time):
        return (
            bool(one.replace(tzinfo=None) == other.replace(tzinfo=None))
            and one.fold == other.fold
            and one.utcoffset() == other.utcoffset()
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    return bool(one == other)


offsets = st.timedeltas(dt.timedelta(hours=-24), dt.timedelta(hours=24)).filter(
    lambda offset: abs(offset) < dt.timedelta(hours=24)
)
zones = st.none() | st.just(UTC) | st.builds(dt.timezone, offsets)
hashable_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-WIDE, WIDE)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=zones)
    | st.datetimes().map(lambda value: value.replace(fold=1))
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
)
leaves = hashable_leaves | st.floats() | st.complex_numbers() | st.decimals()
keys = st.recursive(
    hashable_leaves,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def registrations() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    by_class, by_name = dict(registered.by_class), dict(registered.by_name)
    yield
    for table, before in ((registered.by_class, by_class), (registered.by_name, by_name)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


# --- round trips ------------------------------------------------------------------------------------------------


@given(values)
@example({(1, (2, None)): {frozenset({(1, 2)}), 3}})
def test_every_value_arrives_as_it_was_sent(value: Any) -> None:
    """Value, type and nesting survive, for every combination of the values that travel."""
    assert same(unpack(pack(value)), value)


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 255, 256, WIDE, -WIDE, 10**4000],
)
def test_integers_of_any_size_are_exact(value: int) -> None:
    """Below, at and beyond the 64 bits of msgpack."""
    assert unpack(pack(value)) == value


@pytest.mark.parametrize("value", [math.nan, -0.0, 0.0, math.inf, -math.inf, 5e-324, complex(math.nan, -0.0)])
def test_floats_keep_nan_sign_and_infinity(value: Any) -> None:
    """No float is normalised on the way."""
    assert same(unpack(pack([value])), [value])


@pytest.mark.parametrize("text", ["1.10", "-0", "0E-30", "NaN", "-NaN123", "sNaN7", "Infinity", "1E+999999", "0." + "3" * 300])
def test_decimals_are_exact_whatever_the_context(text: str) -> None:
    """Digits, exponent, sign and NaN payload survive a thread whose context has 3 digits and no traps."""
    value = Decimal(text)
    with decimal.localcontext(decimal.Context(prec=3, traps=[], capitals=0)):
        assert unpack(pack(value)).as_tuple() == value.as_tuple()


def test_a_garbled_decimal_is_refused_whatever_the_context() -> None:
    """A context without traps would turn garbage into a NaN."""
    with decimal.localcontext(decimal.Context(traps=[])), pytest.raises(GarbledFrame):
        unpack(msgpack.packb(msgpack.ExtType(9, b"1.2.3")))


def test_an_aware_datetime_keeps_instant_and_offset() -> None:
    """The name of the zone is not kept; the instant and the wall clock are, on both sides of a change of clocks."""
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        value = dt.datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold)
        back = unpack(pack(value))
        assert back.astimezone(UTC) == value.astimezone(UTC)
        assert back.utcoffset() == value.utcoffset()
        assert back.replace(tzinfo=None) == value.replace(tzinfo=None)
    assert unpack(pack(dt.datetime(2024, 1, 1, tzinfo=UTC))).tzinfo is UTC
    assert unpack(pack(dt.datetime(2024, 1, 1))).tzinfo is None  # noqa: DTZ001


def test_bytes_like_objects_arrive_as_bytes() -> None:
    """A bytearray or a memoryview is sent as what it holds."""
    assert unpack(pack([bytearray(b"a"), memoryview(b"bc")])) == [b"a", b"bc"]


def test_keys_may_be_of_any_hashable_value() -> None:
    """Not only strings."""
    value = {(1, 2): "a", None: "b", 3: "c", b"x": "d", frozenset({1}): "e", dt.date(2024, 1, 1): "f", True: "g"}
    assert unpack(pack(value)) == value


# --- what is refused, and how it is named ------------------------------------------------------------------------

Point = namedtuple("Point", "x y")  # noqa: PYI024 - a subclass of tuple is the case


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Undone(dt.tzinfo):
    def utcoffset(self, _when: dt.datetime | None) -> None:
        return None

    def dst(self, _when: dt.datetime | None) -> None:
        return None

    def tzname(self, _when: dt.datetime | None) -> None:
        return None


A_SOCKET = socket.socket.__new__(socket.socket)


@dataclasses.dataclass
class Holder:
    name: str
    content: Any


@pytest.mark.parametrize(
    "value, path, type_name",
    [
        (object(), "value", "object"),
        ({"user": [1, object()]}, "value['user'][1]", "object"),
        ({"user": {"tags": (1, 2, A_SOCKET)}}, "value['user']['tags'][2]", "socket"),
        ([{3: object()}], "value[0][3]", "object"),
        ({(1, 2): object()}, "value[...]", "object"),
        ({(1, len): 2}, "value<key>[1]", "builtin_function_or_method"),
        ([frozenset({(object,)})], "value[0]{}[0]", "type"),
        (Point(1, 2), "value", "Point"),
        ([OrderedDict()], "value[0]", "OrderedDict"),
        (Colour.RED, "value", "Colour"),
        (Text("a"), "value", "Text"),
        (range(3), "value", "range"),
        (ValueError("x"), "value", "ValueError"),
        (dt.datetime(2024, 1, 1, tzinfo=Undone()), "value", "datetime without a fixed UTC offset"),
        ([dt.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))], "value[0]", "time without a fixed UTC offset"),
        (["fine", "lone \ud800"], "value[1]", "str"),
        ({"lone \ud800": 1}, "value<key>", "str"),
        ([memoryview(b"abcd")[::2]], "value[0]", "memoryview"),
    ],
)
def test_what_cannot_travel_is_named_by_its_path(value: Any, path: str, type_name: str) -> None:
    """The first value at fault is found, wherever it is."""
    with pytest.raises(UnsupportedValue) as caught:
        pack(value)
    assert (caught.value.path, caught.value.type_name) == (path, type_name)
    assert str(caught.value).startswith(f"{path}: a value of type {type_name} cannot travel; ")
    assert caught.value.__cause__ is None


def test_a_path_runs_through_registered_values() -> None:
    """A dataclass shows its field; a class with converters of its own shows that it has a state."""
    register(Holder)
    with pytest.raises(UnsupportedValue) as caught:
        pack({"h": Holder("a", [1, A_SOCKET])})
    assert caught.value.path == "value['h'].content[1]"
    register(Holder, to_wire=lambda holder: (holder.name, holder.content), from_wire=lambda state: Holder(*state))
    with pytest.raises(UnsupportedValue) as caught:
        pack([Holder("a", A_SOCKET)])
    assert caught.value.path == "value[0].<state>[1]"


def test_a_failing_converter_is_an_unsupported_value() -> None:
    """What `to_wire` raises is told to the sender with the path, as a hint."""
    register(Holder, to_wire=lambda holder: holder.missing, from_wire=lambda state: Holder(*state))
    with pytest.raises(UnsupportedValue, match=r"value\[1\]: a value of type Holder .* has no attribute"):
        pack([1, Holder("a", 1)])


def test_an_endless_value_is_refused() -> None:
    """A list within itself, a tuple within a list within itself: both end as an error with a short path."""
    endless: list[Any] = []
    endless.append(endless)
    looped: list[Any] = []
    looped.append((looped,))
    for value in (endless, looped):
        with pytest.raises(UnsupportedValue) as caught:
            pack(value)
        assert len(caught.value.path) < 400


def nested(depth: int) -> Any:
    """That many tuples within each other."""
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    return value


def test_extension_values_nest_up_to_the_limit() -> None:
    """The deepest value that may be sent can also be read; one more is refused by the sender."""
    assert unpack(pack(nested(MAX_NESTING))) == nested(MAX_NESTING)
    with pytest.raises(UnsupportedValue, match=f"nest at most {MAX_NESTING} deep"):
        pack(nested(MAX_NESTING + 1))


def test_a_failure_leaves_the_next_value_alone() -> None:
    """Half of a refused value is never part of what is packed next."""
    for _ in range(3):
        with pytest.raises(UnsupportedValue):
            pack(["x" * 100, (1, [object()])])
        assert unpack(pack(["y", (1, 2)])) == ["y", (1, 2)]


# --- what bytes can do to the reader -----------------------------------------------------------------------------


def ext(code: int, payload: bytes) -> bytes:
    """One extension value, as a peer could write it."""
    return bytes(msgpack.packb(msgpack.ExtType(code, payload)))


@given(st.binary(max_size=300))
def test_random_bytes_are_a_value_or_garbled(data: bytes) -> None:
    """Nothing but the two typed errors comes out of `unpack`."""
    with contextlib.suppress(GarbledFrame, UnknownWireType):
        unpack(data)


@given(st.integers(0, 127), st.binary(max_size=60))
def test_random_extensions_are_a_value_or_typed_errors(code: int, payload: bytes) -> None:
    """Every decoder stands random payloads."""
    with contextlib.suppress(GarbledFrame, UnknownWireType):
        unpack(ext(code, payload))


@given(values, st.data())
def test_mutated_values_are_a_value_or_typed_errors(value: Any, data: st.DataObject) -> None:
    """One wrong byte in a good value raises nothing else."""
    packed = bytearray(pack(value))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(GarbledFrame, UnknownWireType):
        unpack(packed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x02",
        b"\xa2\xff\xff",
        b"\x81\x90\x01",  # a list as a key
        b"\x81\x80\x01",  # a dict as a key
        ext(2, b"\x01"),  # a tuple of a number
        ext(3, b"\x91\x90"),  # a set of a list
        ext(2, b"\x92\x01"),
        ext(5, b"\x00" * 12),  # year 0
        ext(5, b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00" + b"\x7f" * 8),  # an offset of ages
        ext(6, b"\x07\xe8\x0d\x01"),  # month 13
        ext(7, b"\x18\x00\x00\x00\x00\x00\x00\x00"),  # hour 24
        ext(8, b"\x7f\xff\xff\xff" * 3),  # too many days
        ext(9, "\u0661".encode()),
        ext(10, b"short"),
        ext(11, b"short"),
        ext(14, b"\x91\xa1a"),  # a name without a state
        ext(14, b"\x92\x01\x02"),  # a name that is a number
        bytes(msgpack.packb(msgpack.ExtType(14, b"\x92\xa1a\xc1"))),
    ],
)
def test_what_is_no_value_is_garbled(data: bytes) -> None:
    """Broken msgpack, broken extensions and unhashable keys are one typed error."""
    with pytest.raises(GarbledFrame):
        unpack(data)


def test_an_unknown_name_is_looked_up_and_never_imported() -> None:
    """The name of a module on the path leads to nothing but an error that carries it."""
    sys.modules.pop("this", None)
    with pytest.raises(UnknownWireType) as caught:
        unpack(ext(14, bytes(msgpack.packb(["this.d", {}]))))
    assert caught.value.name == "this.d"
    assert "this" not in sys.modules
    with pytest.raises(UnknownWireType, match="extension 99"):
        unpack(ext(99, b""))


def test_nothing_is_made_of_parts_of_which_one_is_missing() -> None:
    """A constructor is not called when a value within its state is unknown, nor after the first fault."""
    made: list[Any] = []
    register(Holder, name="h", to_wire=lambda holder: [holder.name], from_wire=made.append)
    unknown = msgpack.ExtType(14, msgpack.packb(["unknown", None]))
    good = msgpack.ExtType(14, msgpack.packb(["h", 1]))
    with pytest.raises(UnknownWireType, match="unknown"):
        unpack(msgpack.packb([msgpack.ExtType(14, msgpack.packb(["h", [unknown]])), good]))
    assert made == []


def test_a_reader_reports_the_first_fault_and_reads_on() -> None:
    """What stands beside a value that cannot be made is good."""
    reader = Reader()
    value = reader.read(msgpack.packb([7, msgpack.ExtType(99, b""), msgpack.ExtType(98, b""), "after"]))
    assert value[0] == 7
    assert value[3] == "after"
    assert isinstance(reader.fault, UnknownWireType)
    assert reader.fault.name == "extension 99"
    assert reader.fault.__traceback__ is None  # it would keep the bytes alive


def test_containers_that_lie_about_their_length_cost_nothing() -> None:
    """A megabyte of nested headers that announce a million elements each reserves no memory for them."""
    size = 1 << 20
    lie = (b"\xdd" + (size - 10).to_bytes(4, "big")) * 1000
    bomb = lie + b"\xc0" * (size - len(lie))
    tracemalloc.start()
    try:
        for data in (bomb, ext(2, bomb), ext(14, b"\x92\xa1a" + bomb)):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(GarbledFrame):
                unpack(data)
            assert tracemalloc.get_traced_memory()[1] - before < 8 * size
    finally:
        tracemalloc.stop()


def test_deep_bombs_are_garbled() -> None:
    """Thousands of lists within lists, or of extensions within extensions, end as a typed error."""
    with pytest.raises(GarbledFrame):
        unpack(b"\x91" * 100_000 + b"\xc0")
    data = b"\xc0"
    for _ in range(MAX_NESTING + 1):
        data = ext(2, b"\x91" + data)
    with pytest.raises(GarbledFrame, match="nest at most"):
        unpack(data)


@pytest.mark.parametrize("size", [100, 5_000, 300_000])
def test_bytes_after_the_value_are_garbled(size: int) -> None:
    """One value is one value, in small data and in data that is checked first."""
    data = pack("x" * size)
    assert unpack(data) == unpack(bytearray(data)) == unpack(memoryview(data)) == "x" * size
    with pytest.raises(GarbledFrame):
        unpack(data + b"\xc0")
    with pytest.raises(GarbledFrame):
        unpack(data[:-1])


# --- threads, re-entry, imports ----------------------------------------------------------------------------------


def test_a_converter_may_pack_and_unpack() -> None:
    """The codec is entered again from `to_wire` and `from_wire` without harm to the value around them."""
    register(
        Holder,
        to_wire=lambda holder: pack((holder.name, holder.content)),
        from_wire=lambda state: Holder(*unpack(state)),
    )
    value = [{"a": (Holder("x", {1, 2}), Holder("y", (Holder("z", 3),)))}, "after"]
    assert unpack(pack(value)) == value


def test_a_finalizer_that_packs_does_not_mix_into_the_value() -> None:
    """Whatever runs while a value is being packed gets a packer of its own."""

    class Dying:
        def __del__(self) -> None:
            seen.append(pack(["from the finalizer", (1,)]))

    def to_wire(holder: Holder) -> list[Any]:
        dying = Dying()
        dying.itself = dying  # type: ignore[attr-defined]
        del dying
        gc.collect()
        return [holder.name, holder.content]

    seen: list[bytes] = []
    register(Holder, to_wire=to_wire, from_wire=lambda state: Holder(*state))
    value = ["before", Holder("a", "b"), "after"]
    assert unpack(pack(value)) == value
    assert [unpack(data) for data in seen] == [["from the finalizer", (1,)]]


def test_threads_share_the_codec() -> None:
    """Eight threads whose converters give way to each other pack and read only their own values."""
    turn = threading.Event()

    def to_wire(holder: Holder) -> list[Any]:
        turn.wait(1e-4)  # lets another thread in, in the middle of a value
        return [holder.name, holder.content]

    register(Holder, to_wire=to_wire, from_wire=lambda state: Holder(*state))
    wrong: list[Any] = []

    def work(number: int) -> None:
        for count in range(60):
            value = {"n": number, "h": (Holder(str(number), (count, [number] * 50)), Holder("x", {number, count}))}
            if unpack(pack(value)) != value:
                wrong.append((number, count))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_the_codec_imports_neither_numpy_nor_pydantic(tmp_path: Path) -> None:
    """Importing it, and using it for plain and registered values, loads neither of them, nor pickle."""
    script = """
import dataclasses, sys
from supervisors.wire.codec import pack, unpack, wire_type
from supervisors.wire import frames

@wire_type
@dataclasses.dataclass
class Here:
    x: int

assert unpack(pack([Here(1), (2,), {3}])) == [Here(1), (2,), {3}]
try:
    pack(object())
except TypeError:
    pass
frames.FrameDecoder().feed(frames.encode_call(1, None, None, None, Here(1)))
loaded = {"numpy", "pydantic", "pickle", "thespian"} & set(sys.modules)
assert not loaded, loaded
"""
    with (tmp_path / "output").open("w+") as output:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script], stdout=output, stderr=output, timeout=30, check=False
        )
        output.seek(0)
        assert done.returncode == 0, output.read()


def test_wire_is_exported_where_users_look_for_it() -> None:
    """`codec.wire_type` and `codec.register` are the ones of the registry."""
    assert wire_type is registered.wire_type
    assert register is registered.register
    assert unpack(pack(uuid.UUID(int=7))) == uuid.UUID(int=7)
