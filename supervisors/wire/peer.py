"""What both ends of a link need to know of each other."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from supervisors.errors import Refused, SupervisorsError

__all__ = ["HIGH_WATER", "LinkStatistics", "peer_is_trusted", "sendable"]

HIGH_WATER = 1 << 20
"""Bytes that may wait to be written before a side stops: the caller waits, the server stops reading."""

_UCRED = struct.Struct("3i")


def peer_is_trusted(sock: Any) -> bool:
    """Whether the process at the other end of a Unix socket runs as the same user. Called once per connection, on both sides."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return bool(_UCRED.unpack(raw)[1] == os.geteuid())


def sendable(error: BaseException) -> SupervisorsError:
    """The error as the other side can rebuild it: a user's subclass of `Refused` travels as `Refused`."""
    if isinstance(error, SupervisorsError) and type(error).__module__ == SupervisorsError.__module__:
        return error
    if isinstance(error, Refused):
        return Refused(error.message, error.code, error.details)
    return Refused(f"{type(error).__name__}: {error}", "error")


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counters of one end of one link. All but the first two count frames that harmed only themselves."""

    frames: int
    pending: int
    late: int
    unknown: int
    garbled: int
    oversized: int
    malformed: int
