"""The values of the control plane: Thespian's own messages in msgpack, by exact list, so that nothing is executed.

A value is written as a tree: None, bool, int, float, str and bytes are themselves; everything else is an array
that begins with a small number which says what it is. An object is its class's name and its ``__dict__``, and
comes back through ``cls.__new__`` and that ``__dict__``: no ``__init__``, ``__setstate__`` or ``__reduce__`` runs.

Two lists decide what may come back, and neither imports anything on a stranger's word:

- `PRODUCTION_MESSAGES`, the message classes that the system needs, plus our own ones (`allow_message`);
- the actor classes that a create request may name, because Thespian imports what it names.

What loads source code, writes to a file of the sender's choice or joins another system is on neither list.

`ControlCodec` is used by the transport, wherever it sends or receives; it holds no state that a call changes.
"""

import datetime as dt
import enum
import importlib
import logging
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import msgpack
from thespian.actors import ActorAddress
from thespian.system.addressManager import ActorLocalAddress, CannotPickleAddress
from thespian.system.transport.IPBase import TCPv4ActorAddress
from thespian.system.transport.TCPTransport import RoutedTCPv4ActorAddress, TXOnlyAdminTCPv4ActorAddress

from supervisors.wire.sealing import Rejected, Rejection

PRODUCTION_MESSAGES = (
    "logging:LogRecord",
    "thespian.actors:ActorExitRequest",
    "thespian.actors:ChildActorExited",
    "thespian.actors:DeadEnvelope",
    "thespian.actors:PoisonMessage",
    "thespian.actors:WakeupMessage",
    "thespian.system.logdirector:LoggerExitRequest",
    "thespian.system.messages.admin:HandleDeadLetters",
    "thespian.system.messages.admin:PendingActor",
    "thespian.system.messages.admin:PendingActorResponse",
    "thespian.system.messages.admin:QueryAck",
    "thespian.system.messages.admin:QueryExists",
    "thespian.system.messages.admin:SystemShutdown",
    "thespian.system.messages.admin:SystemShutdownCompleted",
    "thespian.system.messages.multiproc:EndpointConnected",
    "thespian.system.messages.multiproc:LoggerConnected",
    "thespian.system.messages.status:Thespian_ActorStatus",
    "thespian.system.messages.status:Thespian_StatusReq",
    "thespian.system.messages.status:Thespian_SystemStatus",
    "thespian.system.timing:ExpirationTimer",
)
_CREATE_REQUEST = "thespian.system.messages.admin:PendingActor"
_MAX_DEPTH = 32
_MAX_HOPS = 8  # an address may name those on the way to it
_MAX_ITEMS = 1 << 16
_MAX_PORT = 0xFFFF


class Unencodable(TypeError):
    """Raised at the sender, by `ControlCodec.encode`, for a value that the control plane does not carry."""


def wire_name(cls: type) -> str:
    """The name under which a class stands in the lists: ``module:qualified.name``."""
    return f"{cls.__module__}:{cls.__qualname__}"


_own: dict[str, type] = {}
_Class = TypeVar("_Class", bound=type)


def allow_message(cls: _Class) -> _Class:
    """Put one of our own message classes, or an Enum that they carry, on the list; usable as a decorator.

    Called at import, in the process that forks all others, so that every process has the same list. Raises
    ValueError for a class whose instances have no ``__dict__`` or whose name belongs to another class.
    """
    if not issubclass(cls, enum.Enum) and not cls.__dictoffset__:
        raise ValueError(f"{wire_name(cls)} has no __dict__, so it cannot be restored without running its code")
    if _own.setdefault(wire_name(cls), cls) is not cls:
        raise ValueError(f"{wire_name(cls)} already names another class")
    return cls


class AllowList:
    """Which classes the wire may name. Exact: no prefixes, and nothing is imported when a frame arrives.

    Made once per process, at start; the modules of `PRODUCTION_MESSAGES` are imported then.
    """

    def __init__(self, actors: Collection[str] = (), values: Iterable[type] = ()) -> None:
        """`actors`: ``module.Class`` of each actor that may be created; `values`: classes sent as such."""
        self._actors = frozenset(actors)
        self._values = {wire_name(cls): cls for cls in values}
        self._messages = {name: _production(name) for name in PRODUCTION_MESSAGES}

    def message(self, name: str) -> type:
        """The class of an object or Enum on the wire; Rejected when its name is not on the list."""
        return _found(self._messages.get(name) or _own.get(name))

    def value(self, name: str) -> type:
        """The class that is itself a value in a message; Rejected when its name is not on the list."""
        return _found(self._values.get(name))

    def check_actor(self, name: object) -> None:
        """Let a create request pass, or raise Rejected: Thespian imports what the request names."""
        if name not in self._actors:
            raise Rejected(Rejection.REFUSED_CLASS)


def _found(cls: type | None) -> type:
    if cls is None:
        raise Rejected(Rejection.REFUSED_CLASS)
    return cls


def _production(name: str) -> type:
    module, _, qualified = name.partition(":")
    found = getattr(importlib.import_module(module), qualified)
    assert isinstance(found, type)  # noqa: S101 - the names are those of the tuple above
    return found


class _Tag:
    """The first item of an array on the wire."""

    LIST, TUPLE, SET, FROZENSET, DICT, OBJECT, ENUM, CLASS, ADDRESS, TIMEDELTA, DATETIME = range(11)


_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_SEQUENCES: dict[type, int] = {
    list: _Tag.LIST,
    tuple: _Tag.TUPLE,
    set: _Tag.SET,
    frozenset: _Tag.FROZENSET,
}
_BUILDERS: dict[int, Callable[[Iterable[Any]], Any]] = {tag: kind for kind, tag in _SEQUENCES.items()}
_ADDRESSES = (TCPv4ActorAddress, RoutedTCPv4ActorAddress, TXOnlyAdminTCPv4ActorAddress)
_OPAQUE = len(_ADDRESSES)
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    OSError,
    msgpack.UnpackException,
)


class ControlCodec:
    """Turns ``(sender, message)`` into the body of a sealed frame and back."""

    def __init__(self, allow: AllowList, max_items: int = _MAX_ITEMS) -> None:
        """`max_items` bounds each collection in a message, so that a short frame cannot claim much memory."""
        self._allow = allow
        self._max_items = max_items

    def encode(self, sender: Any, message: Any) -> bytes:
        """Return the body; Unencodable for what the lists lack, CannotPickleAddress as Thespian expects it.

        Thespian keeps a message with an unfinished child's address back and sends it again when it is known.
        """
        try:
            body: bytes = msgpack.packb([self._lower(sender, _MAX_HOPS), self._lower(message, _MAX_DEPTH)])
        except (OverflowError, ValueError) as error:  # an int of more than 64 bits, a lone surrogate
            raise Unencodable(f"{type(message).__name__} cannot be sent: {error}") from None
        return body

    def decode(self, body: bytes) -> tuple[Any, Any]:
        """Return sender and message, or raise Rejected: `REFUSED_CLASS` or `GARBLED`."""
        try:
            sender, message = msgpack.unpackb(body, max_array_len=self._max_items, max_map_len=0, max_ext_len=0, raw=False)
            address = self._lift(sender, _MAX_HOPS)
            if not isinstance(address, ActorAddress) or not isinstance(address.addressDetails, _ADDRESSES):
                raise Rejected(Rejection.GARBLED)
            return address, self._lift(message, _MAX_DEPTH)
        except _UNREADABLE:
            raise Rejected(Rejection.GARBLED) from None

    # --- to the wire

    def _lower(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if not depth:
            raise Unencodable("a message is nested too deeply, or contains itself")
        depth -= 1
        tag = _SEQUENCES.get(kind)
        if tag is not None:
            return [tag, *(self._lower(item, depth) for item in value)]
        if kind is dict:
            return [_Tag.DICT, *(self._lower(part, depth) for item in value.items() for part in item)]
        if isinstance(value, ActorAddress):
            return self._lower_address(value, depth)
        if kind is dt.timedelta:
            return [_Tag.TIMEDELTA, value.days, value.seconds, value.microseconds]
        if kind is dt.datetime:
            return [_Tag.DATETIME, value.isoformat()]
        if isinstance(value, type):
            return [_Tag.CLASS, self._listed(value, self._allow.value)]
        if isinstance(value, enum.Enum):
            return [_Tag.ENUM, self._listed(kind, self._allow.message), value.name]
        return self._lower_object(value, depth)

    def _lower_object(self, value: Any, depth: int) -> list[Any]:
        tree: list[Any] = [_Tag.OBJECT, self._listed(type(value), self._allow.message)]
        lower = self._lower_or_text if isinstance(value, logging.LogRecord) else self._lower
        state = value.__getstate__()
        if state is not None and type(state) is not dict:
            raise Unencodable(f"the state of {wire_name(type(value))} is not a plain __dict__")
        for name, field in (state or {}).items():
            tree += (name, lower(field, depth))
        return tree

    def _lower_or_text(self, value: Any, depth: int) -> Any:
        # A caller's `extra` in a log record may be anything, and logging must not fail because of it.
        try:
            return self._lower(value, depth)
        except (Unencodable, CannotPickleAddress):
            return str(value)

    def _listed(self, cls: type, lookup: Callable[[str], type]) -> str:
        name = wire_name(cls)
        try:
            if lookup(name) is cls:
                return name
        except Rejected:
            pass
        raise Unencodable(f"{name} is not on the list of what the control plane carries")

    def _lower_address(self, address: Any, depth: int) -> list[Any]:
        details = address.addressDetails
        if isinstance(details, ActorLocalAddress):
            exported = details.addressManager and details.addressManager.exportAddr(address)
            if not exported:
                raise CannotPickleAddress(address)
            details = exported.addressDetails
        if details is None or type(details) is str:
            return [_Tag.ADDRESS, _OPAQUE, details]
        if type(details) not in _ADDRESSES:
            raise Unencodable(f"an address of type {wire_name(type(details))} cannot be sent")
        kind = _ADDRESSES.index(type(details))
        routing = [self._lower(hop, depth) for hop in getattr(details, "routing", ())]
        return [_Tag.ADDRESS, kind, *details.sockname[:2], *routing]

    # --- from the wire

    def _lift(self, tree: Any, depth: int) -> Any:
        if type(tree) in _SCALARS:
            return tree
        if type(tree) is not list or not depth:
            raise Rejected(Rejection.GARBLED)
        depth -= 1
        tag = tree[0]
        if tag in _BUILDERS:
            return _BUILDERS[tag](self._lift(item, depth) for item in tree[1:])
        if tag == _Tag.DICT:
            return self._lift_pairs(tree[1:], depth)
        if tag == _Tag.OBJECT:
            return self._lift_object(tree[1], tree[2:], depth)
        if tag == _Tag.ADDRESS:
            return self._lift_address(tree, depth)
        if tag == _Tag.ENUM:
            return self._lift_enum(*tree[1:])
        if tag == _Tag.CLASS:
            return self._allow.value(tree[1])
        if tag == _Tag.TIMEDELTA:
            return dt.timedelta(*tree[1:4])
        if tag == _Tag.DATETIME:
            return dt.datetime.fromisoformat(tree[1])
        raise Rejected(Rejection.GARBLED)

    def _lift_pairs(self, flat: list[Any], depth: int) -> dict[Any, Any]:
        lifted = [self._lift(part, depth) for part in flat]
        return dict(zip(lifted[::2], lifted[1::2], strict=True))

    def _lift_object(self, name: str, flat: list[Any], depth: int) -> Any:
        cls = self._allow.message(name)
        state = self._lift_pairs(flat, depth)
        if issubclass(cls, enum.Enum) or not all(type(key) is str and key[:2] != "__" for key in state):
            raise Rejected(Rejection.GARBLED)
        if name == _CREATE_REQUEST:
            self._allow.check_actor(state.get("actorClassName"))
        value = cls.__new__(cls)
        value.__dict__.update(state)
        return value

    def _lift_enum(self, name: str, member: str) -> Any:
        cls = self._allow.message(name)
        if not issubclass(cls, enum.Enum):
            raise Rejected(Rejection.GARBLED)
        return cls[member]

    def _lift_address(self, tree: list[Any], depth: int) -> Any:
        if tree[1] == _OPAQUE:
            if tree[2] is not None and type(tree[2]) is not str:
                raise Rejected(Rejection.GARBLED)
            return ActorAddress(tree[2])
        _, kind, host, port, *routing = tree
        socket.inet_pton(socket.AF_INET, host)  # an address, not a name that would have to be resolved
        if kind not in range(_OPAQUE) or type(port) is not int or not 0 <= port <= _MAX_PORT:
            raise Rejected(Rejection.GARBLED)
        cls = _ADDRESSES[kind]
        details = cls.__new__(cls)
        details.__dict__.update(
            af=socket.AF_INET,
            socktype=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            sockname=(host, port),
            bindname=(host, port),  # never wider, should anyone ever bind it
        )
        if cls is not TCPv4ActorAddress:
            details.routing = [self._lift(hop, depth) for hop in routing]
        return ActorAddress(details)
