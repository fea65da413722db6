"""What a node is told, as a value: by the host that embeds it, through its standard input, or by its command line."""

from __future__ import annotations

from dataclasses import dataclass

from supervisors.spec import Supervisor
from supervisors.wire.codec import wire_type

__all__ = ["NodeConfig"]


@wire_type("supervisors.NodeConfig")
@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node needs. Holds no secret: the key of the control plane is made in the node and never leaves it."""

    tree: Supervisor
    """the user's supervisor; the node puts its root above it"""
    directory: str
    name: str = "local"
    """the node's name: the first part of every place"""
    allowed: frozenset[str] = frozenset()
    """modules whose classes may become servers, beyond those of the tree"""
    owner: int | None = None
    """pid of the host; the node ends with it"""
    log_level: str = "warning"
    stop_timeout: float = 30.0
    """seconds that the whole tree has to stop in order"""
