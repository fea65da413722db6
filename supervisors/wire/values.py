"""How the values of the standard library travel: one msgpack extension type each.

Every encoding is exact and names nothing to be imported. Codes are part of the wire: never renumber, only
add.

====  ============  ==================================================================================
code  type          payload
====  ============  ==================================================================================
1     int           beyond 64 bits: two's complement, big-endian
2     tuple         msgpack array
3     set           msgpack array, in any order
4     frozenset     msgpack array, in any order
5     datetime      wall clock, fold, and with a time zone its offset from UTC in microseconds
6     date          year, month, day
7     time          as datetime, without the date
8     timedelta     days, seconds, microseconds
9     Decimal       its text: digits, exponent, sign, NaN payload
10    UUID          16 bytes
11    complex       two doubles
12    numpy array   see `arrays`
13    numpy scalar  see `arrays`
14    registered    msgpack array of name and state, see `registered`
====  ============  ==================================================================================

A time zone travels as its offset: the instant is exact, the name of the zone is not kept. (Looking a zone up
by a name from a peer would import a module of that name from the tzdata package.)
"""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import uuid
from collections.abc import Callable
from typing import Any

from msgpack import ExtType

from supervisors.errors import UnsupportedValue
from supervisors.wire.registered import taken

__all__ = ["DECODERS", "ENCODERS", "Decode", "Encode"]

# `Encode` gets the value and a packer for what it contains; `Decode` the payload and an unpacker for what it
# contains.
Encode = Callable[[Any, Callable[[Any], bytes]], ExtType]
Decode = Callable[[bytes, Callable[[bytes], Any]], Any]

INT, TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID, COMPLEX = range(1, 12)

_DATETIME = struct.Struct("!HBBBBBIB")
_DATE = struct.Struct("!HBB")
_TIME = struct.Struct("!BBBIB")
_TIMEDELTA = struct.Struct("!iII")
_OFFSET = struct.Struct("!q")
_COMPLEX = struct.Struct("!dd")
_MICROSECOND = dt.timedelta(microseconds=1)
# The context of the thread must not decide whether garbage is refused or becomes a NaN.
_STRICT = decimal.Context(traps=[decimal.InvalidOperation])


def _int(value: int, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _read_int(data: bytes, _read: Callable[[bytes], Any]) -> int:
    return int.from_bytes(data, "big", signed=True)


def _tuple(value: tuple[Any, ...], pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(TUPLE, pack(list(value)))


def _set(value: set[Any], pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(SET, pack(list(value)))


def _frozenset(value: frozenset[Any], pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(FROZENSET, pack(list(value)))


def _items(data: bytes, read: Callable[[bytes], Any]) -> list[Any]:
    items = read(data)
    if type(items) is not list:
        raise ValueError("an array was expected")
    return items


def _offset(value: dt.datetime | dt.time) -> bytes:
    if value.tzinfo is None:
        return b""
    offset = value.utcoffset()
    if offset is None:
        name = type(value).__name__
        raise UnsupportedValue("", f"{name} without a fixed UTC offset", "send it in UTC")
    return _OFFSET.pack(offset // _MICROSECOND)


def _zone(data: bytes) -> dt.timezone | None:
    if not data:
        return None
    (micros,) = _OFFSET.unpack(data)
    return dt.timezone(dt.timedelta(microseconds=micros)) if micros else dt.UTC


def _datetime(value: dt.datetime, _pack: Callable[[Any], bytes]) -> ExtType:
    day = (value.year, value.month, value.day)
    clock = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return ExtType(DATETIME, _DATETIME.pack(*day, *clock) + _offset(value))


def _read_datetime(data: bytes, _read: Callable[[bytes], Any]) -> dt.datetime:
    year, month, day, hour, minute, second, micro, fold = _DATETIME.unpack_from(data)
    zone = _zone(data[_DATETIME.size :])
    return dt.datetime(year, month, day, hour, minute, second, micro, tzinfo=zone, fold=fold)


def _date(value: dt.date, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(DATE, _DATE.pack(value.year, value.month, value.day))


def _read_date(data: bytes, _read: Callable[[bytes], Any]) -> dt.date:
    return dt.date(*_DATE.unpack(data))


def _time(value: dt.time, _pack: Callable[[Any], bytes]) -> ExtType:
    fields = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return ExtType(TIME, _TIME.pack(*fields) + _offset(value))


def _read_time(data: bytes, _read: Callable[[bytes], Any]) -> dt.time:
    hour, minute, second, micro, fold = _TIME.unpack_from(data)
    return dt.time(hour, minute, second, micro, tzinfo=_zone(data[_TIME.size :]), fold=fold)


def _timedelta(value: dt.timedelta, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _read_timedelta(data: bytes, _read: Callable[[bytes], Any]) -> dt.timedelta:
    return dt.timedelta(*_TIMEDELTA.unpack(data))


def _decimal(value: decimal.Decimal, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(DECIMAL, str(value).encode("ascii"))


def _read_decimal(data: bytes, _read: Callable[[bytes], Any]) -> decimal.Decimal:
    return decimal.Decimal(data.decode("ascii"), _STRICT)


def _uuid(value: uuid.UUID, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(UUID, value.bytes)


def _read_uuid(data: bytes, _read: Callable[[bytes], Any]) -> uuid.UUID:
    return uuid.UUID(bytes=data)


def _complex(value: complex, _pack: Callable[[Any], bytes]) -> ExtType:
    return ExtType(COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _read_complex(data: bytes, _read: Callable[[bytes], Any]) -> complex:
    return complex(*_COMPLEX.unpack(data))


ENCODERS: dict[type[Any], Encode] = {
    int: _int,  # reached only by what does not fit 64 bits
    tuple: _tuple,
    set: _set,
    frozenset: _frozenset,
    dt.datetime: _datetime,
    dt.date: _date,
    dt.time: _time,
    dt.timedelta: _timedelta,
    decimal.Decimal: _decimal,
    uuid.UUID: _uuid,
    complex: _complex,
}
taken.update(ENCODERS)

DECODERS: dict[int, Decode] = {
    INT: _read_int,
    TUPLE: lambda data, read: tuple(_items(data, read)),
    SET: lambda data, read: set(_items(data, read)),
    FROZENSET: lambda data, read: frozenset(_items(data, read)),
    DATETIME: _read_datetime,
    DATE: _read_date,
    TIME: _read_time,
    TIMEDELTA: _read_timedelta,
    DECIMAL: _read_decimal,
    UUID: _read_uuid,
    COMPLEX: _read_complex,
}
