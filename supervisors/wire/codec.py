"""The value codec of the links: msgpack, extension types, and a closed list of what may travel. Pure.

None, bool, int of any size, float, str, bytes, list, dict with any hashable keys that travel, tuple, set,
frozenset, datetime, date, time, timedelta, Decimal, UUID, complex (`values`), numpy arrays and scalars
(`arrays`), and what was registered with `@wire_type` or `register` (`registered`). Nothing else, and no subclass
of these: `UnsupportedValue` names the field. `bytearray` and `memoryview` arrive as bytes.

Nothing is unpickled and nothing that a peer names is imported. What arrives is bounded by its size:
containers are announced no longer than the bytes that follow, and nest at most `MAX_NESTING` extension values
deep.

Plain values cost one call into msgpack. Only what msgpack cannot pack itself comes back here, and paths are
worked out after a failure. Every function may be called in any thread, and from within a `to_wire` or
`from_wire`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from msgpack import ExtType, Packer, Unpacker, unpackb

from supervisors.errors import GarbledFrame, UnknownWireType, UnsupportedValue, WireError
from supervisors.wire import arrays, registered
from supervisors.wire.registered import Registered, register, wire_type
from supervisors.wire.values import DECODERS, ENCODERS, Encode

__all__ = ["MAX_NESTING", "Reader", "explain", "pack", "pack_at", "register", "unpack", "wire_type"]

MAX_NESTING = 32
"""How deep extension values (tuples, sets, registered ones) nest; lists and dicts in each: 1,000 deep."""

NAMED = 14

_PACKER_BUFFER = 4096
_KEPT_BUFFER = 256 * 1024  # a packer never shrinks its buffer: one that grew beyond this is dropped
_TRUSTED_SIZE = 1024  # below it, a lying container header cannot claim enough memory to matter
_MAX_DEPTH = 1024
_LOST = object()
_DETAIL = 500
_PATH = 300


# --- packing ------------------------------------------------------------------------------------------------

# A packer that is packing must not be entered again: not by an extension value within the value, not by
# another thread, not by a finalizer. So each is borrowed from the idle ones of its level. `list.pop` and
# `append` are atomic; a lost packer is only made again.
_idle: list[list[Packer]] = [[] for _ in range(MAX_NESTING + 1)]


def pack(value: Any) -> bytes:
    """The value as bytes.

    Raises:
        UnsupportedValue: something in it cannot travel; the path begins with `value`.
    """
    try:
        return pack_at(0, value)
    except Exception as error:  # noqa: BLE001 - whatever stopped it is explained
        raise explain(error, {"value": value}) from None


def pack_at(level: int, value: Any) -> bytes:
    """The value as bytes, within `level` extension values. Raises whatever stopped it; see `explain`."""
    idle = _idle[level]
    try:
        packer = idle.pop()
    except IndexError:
        packer = _packer(level)
    data: bytes = packer.pack(value)
    if len(data) <= _KEPT_BUFFER:
        idle.append(packer)
    return data


def _packer(level: int) -> Packer:
    inner = partial(pack_at, level + 1) if level < MAX_NESTING else _too_deep

    def default(value: Any) -> ExtType:
        cls = type(value)
        encode = ENCODERS.get(cls) or _encoder(cls)
        return encode(value, inner)

    return Packer(default=default, strict_types=True, buf_size=_PACKER_BUFFER)


def _encoder(cls: type[Any]) -> Encode:
    entry = registered.by_class.get(cls)
    if entry is not None:
        return partial(_named, entry)
    late = arrays.late_encoder(cls)
    if late is None:
        raise UnsupportedValue("", cls.__qualname__)
    ENCODERS[cls] = late
    return late


def _named(entry: Registered, value: Any, inner: Callable[[Any], bytes]) -> ExtType:
    return ExtType(NAMED, inner([entry.name, entry.to_wire(value)]))


def _too_deep(value: Any) -> bytes:
    raise _nested_too_deep(value)


def _nested_too_deep(value: Any) -> UnsupportedValue:
    return UnsupportedValue("", type(value).__qualname__, f"values nest at most {MAX_NESTING} deep")


# --- why something cannot travel: the slow walk after a failure ---------------------------------------------


def explain(error: Exception, roots: dict[str, Any]) -> Exception:
    """The error to raise for what stopped `pack_at`.

    It is `UnsupportedValue` with the path of the first value at fault; a `MemoryError` stays what it is.
    `roots` are the values that were packed, by the name that their paths begin with.
    """
    if isinstance(error, MemoryError):
        return error
    for name, value in roots.items():
        found = _find(name, value)
        if found is not None:
            return found
    # Whole again by now, as when another thread changed it meanwhile.
    return UnsupportedValue(", ".join(roots), "value", f"{type(error).__name__}: {error}")


def _find(root: str, value: Any) -> UnsupportedValue | None:
    # A path is a chain of (parent, step), put together only for the value at fault.
    waiting: list[tuple[Any, Any, int, int]] = [(value, (None, root), 0, 0)]
    while waiting:
        item, path, depth, nesting = waiting.pop()
        try:
            if depth > _MAX_DEPTH or nesting > MAX_NESTING:
                raise _nested_too_deep(item)
            inside = _inside(item)
            if inside is None:
                pack_at(0, item)
                continue
        except MemoryError:
            return None
        except Exception as error:  # noqa: BLE001 - this is the place
            return _at_fault(error, path, item)
        nesting += type(item) is not list and type(item) is not dict
        waiting.extend([(child, (path, step), depth + 1, nesting) for step, child in inside][::-1])
    return None


def _inside(value: Any) -> Iterator[tuple[str, Any]] | None:
    """The values within a value, each with its step of the path; None for one that contains none."""
    cls = type(value)
    if cls is dict:
        return _entries(value)
    if cls is list or cls is tuple:
        return ((f"[{index}]", item) for index, item in enumerate(value))
    if cls is set or cls is frozenset:
        return (("{}", item) for item in value)
    entry = registered.by_class.get(cls)
    if entry is None:
        return None
    state = entry.to_wire(value)
    if entry.fields and type(state) is dict:
        return ((f".{name}", item) for name, item in state.items())
    return iter([(".<state>", state)])


def _entries(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        yield "<key>", key
        yield f"[{key!r:.40}]" if type(key) in (str, int, bytes) else "[...]", item


def _at_fault(error: Exception, path: Any, value: Any) -> UnsupportedValue:
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(step)
    text = "".join(reversed(steps))
    if len(text) > _PATH:
        text = f"{text[:_PATH]}..."
    if isinstance(error, UnsupportedValue):
        deeper = error.path  # a `to_wire` may pack something by itself
        return UnsupportedValue(f"{text}: {deeper}" if deeper else text, error.type_name, error.hint)
    return UnsupportedValue(text, type(value).__qualname__, f"{type(error).__name__}: {error}"[:_DETAIL])


# --- unpacking ----------------------------------------------------------------------------------------------


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value in the bytes.

    Raises:
        UnknownWireType: it contains a registered value whose class this process has not imported.
        GarbledFrame: the bytes are no value, or a registered class refused its state.
    """
    reader = Reader()
    try:
        value = reader.read(data)
    except Exception as error:
        raise GarbledFrame(_detail("the bytes are no value", error)) from error
    if reader.fault is not None:
        raise reader.fault
    return value


class Reader:
    """Reads values, one at a time, for one owner in one thread.

    An extension value that cannot be made does not stop the rest: it becomes a mark of no type that travels,
    and the first reason is kept in `fault`. The owner takes the fault out and discards the value; whatever
    stands beside it (the header of a frame) is good.
    """

    __slots__ = ("_nesting", "_skipper", "extension", "fault")

    def __init__(self) -> None:
        self.fault: WireError | None = None
        self.extension = self._extension  # bound once
        self._nesting = 0
        self._skipper: Unpacker | None = None

    def read(self, data: bytes | bytearray | memoryview) -> Any:
        """The one value in the bytes, with `fault` set if a part of it could not be made.

        Raises whatever msgpack raises for bytes that are no value, and TypeError for an unhashable key.
        """
        if len(data) > _TRUSTED_SIZE:
            self._check(data)
        return unpackb(data, ext_hook=self.extension, strict_map_key=False)

    def _check(self, data: bytes | bytearray | memoryview) -> None:
        """Make sure that every container holds what its header announces, before memory is reserved for it.

        msgpack reserves a list at its announced length: a few kilobytes of nested lies would cost as much as
        many megabytes of truth.
        """
        skipper = self._skipper or Unpacker(max_buffer_size=0, read_size=_PACKER_BUFFER)
        self._skipper = None  # one that failed is not usable again
        before = skipper.tell()
        skipper.feed(data)
        skipper.skip()
        if skipper.tell() - before != len(data):
            raise ValueError("there are bytes after the value")
        if len(data) <= _KEPT_BUFFER:
            self._skipper = skipper

    def _extension(self, code: int, data: bytes) -> Any:
        if self.fault is not None:
            return _LOST
        self._nesting += 1
        try:
            return self._make(code, data)
        except WireError as error:
            self.fault = error.with_traceback(None)  # it outlives the bytes that its frames hold
        except Exception as error:  # noqa: BLE001 - whatever a constructor raises is the peer's doing
            self.fault = GarbledFrame(_detail(f"extension {code} holds no value", error))
        finally:
            self._nesting -= 1
        return _LOST

    def _make(self, code: int, data: bytes) -> Any:
        if self._nesting > MAX_NESTING:
            raise GarbledFrame(f"values nest at most {MAX_NESTING} deep")
        if code == NAMED:
            return self._make_named(data)
        decode = DECODERS.get(code)
        if decode is None:
            raise UnknownWireType(f"extension {code}")
        return decode(data, self._inner)

    def _make_named(self, data: bytes) -> Any:
        content = self._inner(data)
        if type(content) is not list or len(content) != 2 or type(content[0]) is not str:  # noqa: PLR2004
            raise GarbledFrame("a registered value is an array of a name and a state")
        name, state = content
        entry = registered.by_name.get(name)
        if entry is None:
            raise UnknownWireType(name)
        try:
            return entry.from_wire(state)
        except WireError:
            raise
        except Exception as error:
            raise GarbledFrame(_detail(f"{name} refused its state", error)) from error

    def _inner(self, data: bytes) -> Any:
        value = self.read(data)
        if self.fault is not None:
            raise self.fault  # nothing is made of parts of which one is missing
        return value


def _detail(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {error}"[:_DETAIL]


DECODERS[arrays.ARRAY] = arrays.read_array
DECODERS[arrays.SCALAR] = arrays.read_scalar
