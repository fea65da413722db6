"""What a tree is made of: child specs and supervisors as plain values.

Pure. A spec is made in the process that describes the tree, validated once, there, and travels to the node as a value:
it names a class by its import path and never holds one. The node imports it only if its module is on the allow-list.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from supervisors.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisors.server import Server

__all__ = [
    "BRUTAL_KILL",
    "INFINITY",
    "ChildSpec",
    "ChildType",
    "Restart",
    "Shutdown",
    "Strategy",
    "Supervisor",
    "child",
    "modules_of",
    "walk",
]

MAIN_MODULE: Final = "__supervisors_main__"
"""The name under which a node knows the script that embeds it, as `multiprocessing` has `__mp_main__`."""

BRUTAL_KILL: Final = "brutal_kill"
INFINITY: Final = "infinity"
Shutdown: TypeAlias = float | Literal["brutal_kill", "infinity"]
"""How a child is stopped: seconds that it has for `terminate`, `brutal_kill` (SIGKILL at once) or `infinity`."""


class Restart(StrEnum):
    """When an ended child is started again."""

    PERMANENT = "permanent"
    """always"""
    TRANSIENT = "transient"
    """only if it crashed or was killed, not after `Normal` or `Shutdown`"""
    TEMPORARY = "temporary"
    """never"""


class Strategy(StrEnum):
    """Who is restarted together with an ended child."""

    ONE_FOR_ONE = "one_for_one"
    """nobody else"""


class ChildType(StrEnum):
    """The two kinds of actor; there is no third."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"


_LONGEST_NAME = 64
_LONGEST_WAIT = 1e9


def _word(what: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > _LONGEST_NAME or "/" in value or not value.isprintable():
        raise BadSpec(what, f"{value!r} is no name: 1 to 64 printable characters without '/'")


def _seconds(what: str, value: object, *, least: float = 0.0) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < _LONGEST_WAIT:
        raise BadSpec(what, f"{value!r} is no number of seconds (at least {least:g})")


def _shutdown(what: str, value: object) -> None:
    if value not in (BRUTAL_KILL, INFINITY):
        if isinstance(value, str):
            raise BadSpec(what, f"{value!r} is neither seconds nor {BRUTAL_KILL!r} nor {INFINITY!r}")
        _seconds(what, value)


def _member(what: str, kind: type[StrEnum], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise BadSpec(what, f"{value!r} is not one of {', '.join(kind)}") from None


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How a supervisor starts, stops and restarts one server. Made by `child`, which fills in the defaults."""

    id: str
    server: str
    """the import path `package.module:Class` of the `Server` subclass"""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    restart: Restart = Restart.PERMANENT
    shutdown: Shutdown = 5.0
    start_timeout: float = 10.0

    def __post_init__(self) -> None:
        _word("child id", self.id)
        what = f"child {self.id!r}"
        module, _, qualname = self.server.partition(":")
        if not module or not qualname or not all(part.isidentifier() for part in (*module.split("."), *qualname.split("."))):
            raise BadSpec(what, f"{self.server!r} is no import path of the form package.module:Class")
        if self.name is not None:
            _word(f"{what}, name", self.name)
        object.__setattr__(self, "args", tuple(self.args))
        object.__setattr__(self, "kwargs", dict(self.kwargs))
        object.__setattr__(self, "restart", _member(f"{what}, restart", Restart, self.restart))
        _shutdown(f"{what}, shutdown", self.shutdown)
        _seconds(f"{what}, start_timeout", self.start_timeout, least=0.001)

    @property
    def type(self) -> ChildType:
        """A server is a worker."""
        return ChildType.WORKER


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A supervisor and its children, as a value. The specification of what it does is `supervisors.supervisor`.

    `max_restarts` restarts within `max_seconds` are borne; one more, and it stops its children and ends, so that its own
    supervisor decides. The defaults are Elixir's: 3 restarts in 5 seconds.
    """

    id: str
    children: tuple[ChildSpec | Supervisor, ...] = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    max_restarts: int = 3
    max_seconds: float = 5.0
    restart: Restart = Restart.PERMANENT
    shutdown: Shutdown = INFINITY

    def __post_init__(self) -> None:
        _word("supervisor id", self.id)
        what = f"supervisor {self.id!r}"
        object.__setattr__(self, "children", tuple(self.children))
        seen: set[str] = set()
        for each in self.children:
            if not isinstance(each, ChildSpec | Supervisor):
                raise BadSpec(what, f"{each!r} is no child: use child(YourServer) or a Supervisor")
            if each.id in seen:
                raise BadSpec(what, f"two children have the id {each.id!r}; give one of them another id=")
            seen.add(each.id)
        object.__setattr__(self, "strategy", _member(f"{what}, strategy", Strategy, self.strategy))
        object.__setattr__(self, "restart", _member(f"{what}, restart", Restart, self.restart))
        if isinstance(self.max_restarts, bool) or not isinstance(self.max_restarts, int) or self.max_restarts < 0:
            raise BadSpec(f"{what}, max_restarts", f"{self.max_restarts!r} is no count of restarts")
        _seconds(f"{what}, max_seconds", self.max_seconds, least=0.001)
        _shutdown(f"{what}, shutdown", self.shutdown)

    @property
    def type(self) -> ChildType:
        """A supervisor."""
        return ChildType.SUPERVISOR

    @property
    def name(self) -> None:
        """Supervisors are reached by their place in the tree; only servers have names."""
        return

    @property
    def start_timeout(self) -> float:
        """Seconds in which all of its children, one after the other, must be ready."""
        return 10.0 + sum(each.start_timeout for each in self.children)


def child(  # noqa: PLR0913 - the fields of a child spec, all but the first by keyword
    server: type[Server],
    *,
    id: str | None = None,  # noqa: A002 - OTP's own word
    name: str | None = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    restart: Restart | str = Restart.PERMANENT,
    shutdown: Shutdown = 5.0,
    start_timeout: float = 10.0,
) -> ChildSpec:
    """The child spec of a server class. Called where the tree is described, before anything is started.

    `args` and `kwargs` go to `Server.init` and must be values that can travel. `id` names the child among its siblings
    (default: `name`, else the class name in lower case), `name` registers it for the whole tree. Raises `BadSpec`.
    """
    own_id = id if id is not None else name or server.__name__.lower()
    return ChildSpec(
        id=own_id,
        server=f"{_module_of(server, own_id)}:{server.__qualname__}",
        args=args,
        kwargs=kwargs or {},
        name=name,
        restart=_member(f"child {own_id!r}, restart", Restart, restart),
        shutdown=shutdown,
        start_timeout=start_timeout,
    )


def _module_of(server: type[Server], own_id: str) -> str:
    """The module by which another process can import the class."""
    if "<locals>" in server.__qualname__:
        problem = f"{server.__qualname__} is defined inside a function, where no other process finds it; move it to a module"
        raise BadSpec(f"child {own_id!r}", problem)
    if server.__module__ != "__main__":
        return server.__module__
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return str(main.__spec__.name)  # type: ignore[union-attr]
    if str(getattr(main, "__file__", None) or "<").startswith("<"):  # nothing, or `<stdin>`
        problem = f"{server.__qualname__} was typed into an interactive session; put it into a module and import it from there"
        raise BadSpec(f"child {own_id!r}", problem)
    return MAIN_MODULE


def walk(tree: ChildSpec | Supervisor) -> Iterator[ChildSpec]:
    """Every server of a tree, in the order in which they start."""
    if isinstance(tree, ChildSpec):
        yield tree
    else:
        for each in tree.children:
            yield from walk(each)


def modules_of(tree: ChildSpec | Supervisor) -> frozenset[str]:
    """The modules that a tree's classes come from: what its node must be allowed to import."""
    return frozenset(each.server.partition(":")[0] for each in walk(tree))
