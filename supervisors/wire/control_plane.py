"""The configuration of the control plane: one value per process, inherited through every fork.

`ControlPlane` says all that the secured system base needs to know; `install` sets it for this process and its
descendants, `installed` returns it. Neither the key nor anything else of it is ever in an argument list, in the
environment or in a message.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisors.process.counters import SharedCounters
from supervisors.wire.control_codec import AllowList
from supervisors.wire.sealing import MAX_FRAME, Rejection, check_key

_MAX_PORT = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """How the actor system of this process talks. ValueError when a field makes no sense.

    Made by the node, once per boot of a tree: the key is fresh each time, so that nothing recorded from one boot
    means anything to the next.
    """

    key: bytes = field(repr=False)
    """32 random bytes"""
    admin_port: int
    """where Thespian's admin listens, see `supervisors.wire.system_base.free_port`"""
    bind: str = "127.0.0.1"
    """the one IPv4 address that every socket of the system is bound to, from its first moment on"""
    allowed_actors: frozenset[str] = frozenset()
    """``module.Class`` of every actor that may be created by request over the wire"""
    counters: SharedCounters | None = None
    """counts each `Rejection` by its value; made with ``SharedCounters(Rejection)``, or with more names"""
    max_frame: int = MAX_FRAME
    """bytes of a message's body"""
    max_items: int = 1 << 16
    """of one collection in a message"""
    frame_timeout: float = 5.0
    """seconds from a connection's, or a further frame's, beginning to the complete frame"""
    max_strangers: int = 256
    """connections that have not sent an authentic frame yet; the oldest is dropped for one more"""
    retry_period: float = 1.0
    """seconds, times the attempt, until a frame is sent again whose connection broke"""
    start_timeout: float = 5.0
    """seconds until the admin must have come up"""
    allow: AllowList | None = None
    """another list than the exact one over `allowed_actors`"""

    def __post_init__(self) -> None:
        check_key(self.key)
        address = ipaddress.IPv4Address(self.bind)
        if address.is_unspecified or address.is_multicast:
            raise ValueError(f"bind={self.bind!r} is not one address of this machine")
        if not 0 < self.admin_port <= _MAX_PORT:
            raise ValueError(f"admin_port={self.admin_port} is not a port")
        for name in ("max_frame", "max_items", "frame_timeout", "max_strangers", "retry_period", "start_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is not greater than 0")
        if self.counters is not None and not set(Rejection) <= set(self.counters.names):
            raise ValueError(f"counters lack {sorted(set(Rejection) - set(self.counters.names))}")

    def reject(self, reason: Rejection) -> None:
        """Count one rejection. Any process, any thread; never blocks."""
        if self.counters is not None:
            self.counters.add(reason.value)

    def rejections(self) -> Mapping[Rejection, int]:
        """How often each rejection occurred in all processes of the tree; all zero without counters."""
        counted = self.counters.snapshot() if self.counters is not None else {}
        return {reason: counted.get(reason.value, 0) for reason in Rejection}

    def allow_list(self) -> AllowList:
        """The list that frames are judged by."""
        return self.allow if self.allow is not None else AllowList(self.allowed_actors)


class _Process:
    plane: ControlPlane | None = None


def install(plane: ControlPlane) -> None:
    """Set the configuration of this process and of those that it forks from now on."""
    _Process.plane = plane


def installed() -> ControlPlane:
    """The configuration of this process; RuntimeError when there is none, for then there is no key either."""
    if _Process.plane is None:
        raise RuntimeError("no control plane is installed in this process: it was not forked by a node")
    return _Process.plane
