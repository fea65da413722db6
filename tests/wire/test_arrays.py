"""numpy arrays and scalars on the wire: exact, without a copy, and from a closed list of dtypes."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from supervisors.errors import GarbledFrame, UnknownWireType, UnsupportedValue
from supervisors.wire.codec import pack, register, unpack

pytestmark = pytest.mark.timeout(60)

dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(endianness="?", sizes=(64, 128))
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
)


@given(hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4)), st.sampled_from("CFT"))
def test_arrays_arrive_with_values_shape_and_dtype(array: Any, order: str) -> None:
    """For every dtype, any number of dimensions (none, or empty ones), any memory order, any byte order."""
    array = array.T if order == "T" else np.asarray(array, order="F" if order == "F" else "C")
    back = unpack(pack({"a": array}))["a"]
    assert type(back) is np.ndarray
    assert (back.shape, back.dtype.name) == (array.shape, array.dtype.name)
    assert back.astype(array.dtype).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "scalar",
    [
        np.float32(1.5),
        np.float64(-0.0),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1 + 2j),
        np.datetime64("2024-05-06T07:08:09.123456789"),
        np.datetime64("NaT"),
        np.timedelta64(3, ("s", 25)),
        np.float16("nan"),
    ],
)
def test_scalars_stay_scalars_of_their_dtype(scalar: Any) -> None:
    """A numpy float is not flattened to a Python float, though it is one."""
    back = unpack(pack([scalar]))[0]
    assert type(back) is type(scalar)
    assert back.dtype == scalar.dtype
    assert back.tobytes() == scalar.tobytes()


def test_a_decoded_array_is_an_aligned_read_only_view() -> None:
    """The elements are not copied out of the received bytes, so they cannot be written to; a copy can."""
    back = unpack(pack(["x", np.arange(1000.0)]))[1]
    assert not back.flags.writeable
    assert not back.flags.owndata
    assert isinstance(back.base, bytes)
    assert back.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1
    copy = back.copy()
    copy[0] = 7
    assert copy[0] == 7


@pytest.mark.parametrize(
    "value, type_name",
    [
        (np.array([object()]), "ndarray of dtype object"),
        (np.array(["a"]), "ndarray of dtype <U1"),
        (np.array([b"a"]), "ndarray of dtype |S1"),
        (np.zeros(2, "i4,f8"), "ndarray of dtype [('f0', '<i4'), ('f1', '<f8')]"),
        (np.str_("a"), "str_ of dtype <U1"),
        (np.ma.array([1]), "MaskedArray"),
        (np.zeros(2).view(np.recarray), "recarray"),
    ],
)
def test_other_arrays_are_refused_by_name(value: Any, type_name: str) -> None:
    """Objects, text, records and subclasses do not travel, and the path says where they were."""
    with pytest.raises(UnsupportedValue) as caught:
        pack({"a": [value]})
    assert (caught.value.path, caught.value.type_name) == ("value['a'][0]", type_name)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is double on this platform")
def test_long_doubles_are_refused() -> None:
    """Their layout differs between machines."""
    with pytest.raises(UnsupportedValue, match="longdouble"):
        pack(np.longdouble(1))


def payload(name: bytes, shape: tuple[int, ...], elements: bytes) -> bytes:
    """An array as a peer could write it."""
    head = struct.pack(f"!B{len(name)}sB{len(shape)}Q", len(name), name, len(shape), *shape)
    return head + bytes(-len(head) % 16) + elements


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x07",
        payload(b"object", (1,), bytes(8)),
        payload(b"O", (1,), bytes(8)),
        payload(b"str", (1,), bytes(8)),
        payload(b"V8", (1,), bytes(8)),
        payload(b"i4,O", (1,), bytes(12)),
        payload(b"datetime64[x]", (1,), bytes(8)),
        payload(b"datetime64[0s]", (1,), bytes(8)),
        payload(b"int\xff", (1,), bytes(8)),
        payload(b"int64", (2,), bytes(8)),
        payload(b"int64", (1,), bytes(9)),
        payload(b"int64", (2**63, 2), b""),
        payload(b"int64", (2**40, 2**40), bytes(8)),
        payload(b"int64", (2**62, 0), b""),
        payload(b"int64", (1,) * 200, bytes(8)),
        payload(b"int64", (1,), bytes(8))[:-9],
    ],
)
@pytest.mark.parametrize("code", [12, 13])
def test_hostile_arrays_are_garbled(data: bytes, code: int) -> None:
    """Object dtypes, absurd shapes and wrong lengths are an error, never an array over foreign memory."""
    with pytest.raises(GarbledFrame):
        unpack(msgpack.packb(msgpack.ExtType(code, data)))


def test_a_scalar_has_no_dimensions() -> None:
    """An array in a scalar's place is garbled."""
    with pytest.raises(GarbledFrame, match="no dimensions"):
        unpack(msgpack.packb(msgpack.ExtType(13, payload(b"int64", (1,), bytes(8)))))


def test_numpy_classes_cannot_be_registered_over_the_codec() -> None:
    """Its converters would be called or not, depending on what was sent before."""
    for cls in (np.ndarray, np.float64, np.str_):
        with pytest.raises(TypeError, match="travels already"):
            register(cls, to_wire=str, from_wire=cls)


def test_an_array_for_a_process_without_numpy_is_an_unknown_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typed error that names it, and only when an array arrives."""
    data = pack([np.zeros(3)])
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(UnknownWireType, match=r"numpy\.ndarray"):
        unpack(data)
    assert unpack(pack([1, (2,)])) == [1, (2,)]


def test_numpy_is_imported_when_an_array_arrives(tmp_path: Path) -> None:
    """And no sooner."""
    script = f"""
import sys
from supervisors.wire.codec import unpack
assert "numpy" not in sys.modules
assert unpack({pack(np.arange(3))!r}).tolist() == [0, 1, 2]
assert "numpy" in sys.modules
"""
    with (tmp_path / "output").open("w+") as output:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script], stdout=output, stderr=output, timeout=30, check=False
        )
        output.seek(0)
        assert done.returncode == 0, output.read()
