"""The values that the floor itself sends: addresses, exit reasons, errors, and the questions that every process answers.

Importing this module registers them with the codec; both ends of a link import it, so that each survives the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from supervisors import errors, exits, spec
from supervisors.wire.codec import register, wire_type

__all__ = [
    "REGISTRY",
    "Address",
    "AwaitDown",
    "ChildInfo",
    "Down",
    "GetStatistics",
    "Names",
    "Register",
    "StatusReport",
    "StopTree",
    "Unregister",
    "WhereIs",
    "WhichChildren",
]


REGISTRY = "registry"
"""The registry's name, and its socket in the node's directory."""


@wire_type("supervisors.Address")
@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is right now: one incarnation of one place. It delivers; the place and the name identify."""

    place: str
    """`node/supervisor/.../id`"""
    path: str
    """its Unix socket"""
    pid: int
    incarnation: int
    door: str
    """the Unix socket of its supervisor, who knows how it ended"""

    @property
    def id(self) -> str:
        """Its id among its siblings."""
        return self.place.rpartition("/")[2]


@wire_type("supervisors.Down")
@dataclass(frozen=True, slots=True)
class Down:
    """What a monitor tells, exactly once."""

    target: str
    reason: exits.ExitReason


@wire_type("supervisors.GetStatistics")
@dataclass(frozen=True, slots=True)
class GetStatistics:
    """To any server: answered beside the mailbox, without the server's own code."""


@wire_type("supervisors.WhichChildren")
@dataclass(frozen=True, slots=True)
class WhichChildren:
    """To a supervisor: a `StatusReport` of itself and its children, in start order."""


@wire_type("supervisors.AwaitDown")
@dataclass(frozen=True, slots=True)
class AwaitDown:
    """To a supervisor: answered with the exit reason as soon as that incarnation of that child is down."""

    id: str
    incarnation: int

    def __post_init__(self) -> None:
        # It comes from a peer and becomes a key: what cannot be one is refused where it is read.
        if type(self.id) is not str or type(self.incarnation) is not int:
            raise TypeError("an id and an incarnation were expected")


@wire_type("supervisors.StopTree")
@dataclass(frozen=True, slots=True)
class StopTree:
    """To the root: stop everything in order and end."""


@wire_type("supervisors.ChildInfo")
@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One child, as its supervisor sees it. `uptime` in seconds."""

    id: str
    type: str
    name: str | None
    state: str
    pid: int
    incarnation: int
    path: str
    restarts: int
    last_reason: exits.ExitReason | None
    uptime: float


@wire_type("supervisors.StatusReport")
@dataclass(frozen=True, slots=True)
class StatusReport:
    """A supervisor and its children."""

    place: str
    pid: int
    phase: str
    strategy: str
    max_restarts: int
    max_seconds: float
    uptime: float
    children: list[ChildInfo] = field(default_factory=list)
    counters: dict[str, Any] = field(default_factory=dict)


@wire_type("supervisors.Register")
@dataclass(frozen=True, slots=True)
class Register:
    """To the registry, as a stream: this name is at this address for as long as the stream stays open."""

    name: str
    address: Address


@wire_type("supervisors.Unregister")
@dataclass(frozen=True, slots=True)
class Unregister:
    """To the registry, as a cast: the server of that incarnation ends and will not come back."""

    name: str
    incarnation: int


@wire_type("supervisors.WhereIs")
@dataclass(frozen=True, slots=True)
class WhereIs:
    """To the registry: the `Address` of a name; waits a moment for one that is being restarted."""

    name: str


@wire_type("supervisors.Names")
@dataclass(frozen=True, slots=True)
class Names:
    """To the registry: every name and its address."""


for _class in (
    exits.Normal,
    exits.Shutdown,
    exits.Crash,
    exits.Killed,
    exits.Exited,
    exits.StartTimeout,
    exits.Lost,
    exits.NoProcess,
    spec.ChildSpec,
    spec.Supervisor,
    spec.Restart,
    spec.Strategy,
):
    register(_class, name=f"supervisors.{_class.__name__}")


def _register_error(error: type[errors.SupervisorsError]) -> None:
    register(
        error,
        name=f"supervisors.{error.__name__}",
        to_wire=lambda value: list(value.args),
        from_wire=lambda args: error(*args),
    )


for _name in errors.__all__:
    if _name != "SupervisorsError":
        _register_error(getattr(errors, _name))
