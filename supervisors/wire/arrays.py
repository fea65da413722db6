"""How numpy arrays and scalars travel. numpy is imported here only when an array arrives, never to send one.

The dtypes are a closed list: bool, integers and floats up to 64 bits, complex64/128, datetime64 and
timedelta64 with their unit. No object, string, void or structured dtype, and no subclass of `ndarray` (a
masked array would lose its mask).

Payload: length and text of the dtype's name, number of dimensions, the shape as 64-bit numbers, zeros up to a
multiple of 16, then the elements, little-endian, in C order.

**A decoded array is read-only**: it is a view of the received bytes, without a copy. Call `.copy()` before
writing to it. Memory order and byte order are not kept; values, dtype name and shape are.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Callable
from typing import Any

from msgpack import ExtType

from supervisors.errors import UnknownWireType, UnsupportedValue

__all__ = ["ARRAY", "SCALAR", "late_encoder", "read_array", "read_scalar"]

ARRAY, SCALAR = 12, 13

_DTYPE = re.compile(
    r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)"
    r"|(datetime64|timedelta64)(\[([1-9][0-9]{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_ALIGN = 16  # no element needs more; an aligned view is read at full speed
_HINT = "send an array of numbers, booleans or dates"


def late_encoder(cls: type[Any]) -> Callable[[Any, Callable[[Any], bytes]], ExtType] | None:
    """The encoder of a numpy class, or None. Called by the packer for a class it does not know yet."""
    numpy = sys.modules.get("numpy")  # a value of numpy can only exist once numpy is imported
    if numpy is None:
        return None
    if cls is numpy.ndarray:
        return _array
    return _scalar if issubclass(cls, numpy.generic) else None


def _array(value: Any, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(ARRAY, _payload(value, "ndarray"))


def _scalar(value: Any, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(SCALAR, _payload(sys.modules["numpy"].asarray(value), type(value).__name__))


def _payload(array: Any, type_name: str) -> bytes:
    dtype = array.dtype
    if not _DTYPE.fullmatch(dtype.name):
        raise UnsupportedValue("", f"{type_name} of dtype {dtype}", _HINT)
    name = dtype.name.encode("ascii")
    head = struct.pack(f"!B{len(name)}sB{array.ndim}Q", len(name), name, array.ndim, *array.shape)
    elements = array.astype(dtype.newbyteorder("<"), order="C", copy=False)
    if dtype.kind in "mM":
        elements = elements.view("<i8")  # dates do not export their memory
    return b"".join((head, bytes(-len(head) % _ALIGN), elements))


def read_array(data: bytes, _read: Callable[[bytes], Any]) -> Any:
    """The array in an extension payload; read-only, without a copy.

    Raises:
        UnknownWireType: numpy is not installed in this process.
        ValueError, TypeError, struct.error: the payload is not an array.
    """
    try:
        import numpy as np
    except ImportError:
        raise UnknownWireType("numpy.ndarray") from None
    name = data[1 : 1 + data[0]].decode("ascii")
    if not _DTYPE.fullmatch(name):
        raise ValueError(f"arrays of dtype {name!r} do not travel")
    dtype = np.dtype(name).newbyteorder("<")
    dimensions = data[1 + data[0]]
    start = 2 + data[0]
    shape = struct.unpack_from(f"!{dimensions}Q", data, start)
    start += 8 * dimensions
    start += -start % _ALIGN
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data) - start} bytes cannot hold an array of shape {shape} and dtype {name}")
    return np.ndarray(shape, dtype, buffer=data, offset=start)


def read_scalar(data: bytes, read: Callable[[bytes], Any]) -> Any:
    """The numpy scalar in an extension payload; raises what `read_array` raises."""
    array = read_array(data, read)
    if array.shape:
        raise ValueError("a scalar has no dimensions")
    return array[()]
