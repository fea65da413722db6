"""Values that travel by name: dataclasses, pydantic models, enums, and classes with converters of their own.

A registered value is sent as `(name, state)`, where the state is made of values that travel themselves. The
receiver looks the name up in the table of this module and nowhere else: **nothing that a peer sends is ever
imported**, so both sides import the module that defines the class, before the first message.

=============== ============================================
======================================================= class           state
made again by =============== ============================================
======================================================= dataclass       its fields by name
its constructor; fields with `init=False` are set after it pydantic model  `model_dump(mode="python",
round_trip=True)` `model_validate`: every validation of the model applies `Enum`          the member's name
look-up by name `Flag`          its number                                   look-up by number other
what `to_wire` returns                       `from_wire` ===============
============================================ =======================================================

Types are looked up exactly: a subclass of a registered class is a class of its own and is registered itself.
What pydantic leaves out of a dump (private attributes, computed fields, `exclude=True`) does not travel, and
a field annotated with a base model carries the fields of that base only, as pydantic defines it. A nested
dataclass or enum is registered like any other.

Registration happens at import time, in any thread. The table is read on every encoding and decoding.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar, overload

from supervisors.spec import MAIN_MODULE

__all__ = ["Registered", "by_class", "by_name", "register", "wire_type"]

C = TypeVar("C", bound=type[Any])
_Converters: TypeAlias = tuple[Callable[[Any], Any], Callable[[Any], Any], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class Registered:
    """How one class travels. `fields`: the state is a dict by field name, which makes better error paths."""

    cls: type[Any]
    name: str
    to_wire: Callable[[Any], Any]
    from_wire: Callable[[Any], Any]
    fields: bool


by_class: dict[type[Any], Registered] = {}
by_name: dict[str, Registered] = {}

# What msgpack carries by itself; `values` adds what it carries.
taken: set[type[Any]] = {type(None), bool, int, float, str, bytes, bytearray, memoryview, list, dict}


@overload
def wire_type(cls: C, /) -> C: ...


@overload
def wire_type(name: str, /) -> Callable[[C], C]: ...


def wire_type(cls_or_name: C | str, /) -> C | Callable[[C], C]:
    """Let the instances of a dataclass, pydantic model or enum travel: `@wire_type` or `@wire_type("name")`.

    It stands above `@dataclass`. The name defaults to `module.QualName`; a name of your own survives the move
    of the class to another module.

    Raises:
        TypeError: the class is none of the three kinds, or has constructor arguments that no field holds.
        ValueError: another class has that name already.
    """
    if not isinstance(cls_or_name, str):
        register(cls_or_name)
        return cls_or_name
    name = cls_or_name

    def decorate(cls: C) -> C:
        register(cls, name=name)
        return cls

    return decorate


def register(
    cls: type[Any],
    *,
    name: str | None = None,
    to_wire: Callable[[Any], Any] | None = None,
    from_wire: Callable[[Any], Any] | None = None,
) -> None:
    """Let the instances of any class travel, through two converters; without them, as `@wire_type` does.

    `to_wire(instance)` returns a value that travels; `from_wire(state)` gets it in the receiver and returns
    the instance. Both run on the thread that encodes or decodes (in a server: its loop), so they neither
    block nor wait. The state comes from a peer: `from_wire` checks it. If `to_wire` raises, the sender gets
    `UnsupportedValue`; if `from_wire` raises, the receiver gets a `Fault`.

    A class may be registered under a second name: it is then sent under the newer one and understood under
    both.

    Raises:
        TypeError: the class needs converters, has only one, or travels already without being registered.
        ValueError: another class has that name already.
    """
    if not isinstance(cls, type):
        raise TypeError(f"a class or a name was expected, not {cls!r}")
    if to_wire is not None and from_wire is not None:
        entry = Registered(cls, name or _default_name(cls), to_wire, from_wire, fields=False)
    elif to_wire is None and from_wire is None:
        entry = Registered(cls, name or _default_name(cls), *_converters(cls))
    else:
        raise TypeError(f"{cls.__qualname__} needs both converters, to_wire and from_wire, or neither")
    _enter(entry)


def _enter(entry: Registered) -> None:
    if entry.cls in taken or entry.cls.__module__.partition(".")[0] == "numpy":
        raise TypeError(f"{entry.cls.__qualname__} travels already; it cannot be registered")
    present = by_name.get(entry.name)
    if present is not None and present.cls is not entry.cls and not _same_definition(present.cls, entry.cls):
        raise ValueError(
            f"{entry.name!r} names {_path(present.cls)} already, so it cannot name {_path(entry.cls)}; "
            f"give one of them a name of its own with @wire_type('...')"
        )
    by_name[entry.name] = entry
    by_class[entry.cls] = entry


def _same_definition(one: type[Any], other: type[Any]) -> bool:
    """Whether one `class` statement ran twice: a reload, or `__main__` imported again by its real name."""
    if one.__qualname__ != other.__qualname__:
        return False
    if one.__module__ == other.__module__:
        return True
    return "__main__" in (one.__module__, other.__module__) and _file(one) == _file(other) is not None


def _file(cls: type[Any]) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def _path(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _default_name(cls: type[Any]) -> str:
    module = cls.__module__
    if module == MAIN_MODULE:
        return f"__main__.{cls.__qualname__}"  # in a node: the script that embeds it, which calls itself so
    if module == "__main__":  # peers know what runs as `python -m package.module` by that module's name
        module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) or module
    return f"{module}.{cls.__qualname__}"


def _converters(cls: type[Any]) -> _Converters:
    if issubclass(cls, enum.Flag):
        return _flag_value, cls, False
    if issubclass(cls, enum.Enum):
        return _enum_name, partial(_member, cls), False
    pydantic = sys.modules.get("pydantic")  # a model can only exist once pydantic is imported
    if pydantic is not None and issubclass(cls, pydantic.BaseModel):
        return _model_converters(cls)
    if dataclasses.is_dataclass(cls):
        return _dataclass_converters(cls)
    raise TypeError(
        f"{cls.__qualname__} is no dataclass, pydantic model or Enum; put @wire_type above @dataclass, "
        f"or give converters: register({cls.__qualname__}, to_wire=..., from_wire=...)"
    )


def _enum_name(member: enum.Enum) -> str:
    return member.name


def _member(cls: type[enum.Enum], name: str) -> enum.Enum:
    return cls[name]


def _flag_value(member: enum.Flag) -> Any:
    return member.value


def _model_converters(cls: Any) -> _Converters:
    def to_wire(model: Any) -> Any:
        return model.model_dump(mode="python", round_trip=True, by_alias=False, warnings="error")

    def from_wire(state: Any) -> Any:
        return cls.model_validate(state, by_alias=False, by_name=True)

    return to_wire, from_wire, True


def _dataclass_converters(cls: type[Any]) -> _Converters:
    fields = dataclasses.fields(cls)
    names = tuple(field.name for field in fields)
    late = frozenset(field.name for field in fields if not field.init)
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in names:
            raise TypeError(
                f"{cls.__qualname__} is constructed with {parameter.name!r}, which none of its fields holds; "
                f"use register({cls.__qualname__}, to_wire=..., from_wire=...)"
            )

    def to_wire(value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in names}

    def from_wire(state: Any) -> Any:
        if not late:
            return cls(**state)
        value = cls(**{name: item for name, item in state.items() if name not in late})
        for name in late & state.keys():
            object.__setattr__(value, name, state[name])  # frozen dataclasses too
        return value

    return to_wire, from_wire, True
