"""What both ends of a link need to know of each other."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from supervisors.errors import Refused, SupervisorsError
from supervisors.wire.codec import wire_type
from supervisors.wire.frame_decoder import FrameDecoder

__all__ = ["HIGH_WATER", "LinkStatistics", "peer_is_trusted", "sendable"]

HIGH_WATER = 1 << 20
"""Bytes that may wait to be written before a side stops: the caller waits, the server takes no more work from that caller."""

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


@wire_type("supervisors.LinkStatistics")
@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counters of one end of one link, or the sum over several. From `late` on: frames that harmed only themselves."""

    links: int = 0
    """that are open now"""
    pending: int = 0
    """calls and streams that wait for an answer now; counted at the caller's end"""
    frames: int = 0
    """that arrived and were good"""
    late: int = 0
    """answers that nobody waited for any more, doubled ones among them"""
    double: int = 0
    """messages that had arrived before, or so long after others that this cannot be told; not executed"""
    unknown: int = 0
    """of no kind that this end takes"""
    garbled: int = 0
    """changed on the way"""
    oversized: int = 0
    malformed: int = 0
    """good bytes that are no frame"""
    faults: int = 0
    """good frames with a value that could not be made here"""

    def __add__(self, other: LinkStatistics) -> LinkStatistics:
        return LinkStatistics(
            self.links + other.links,
            self.pending + other.pending,
            self.frames + other.frames,
            self.late + other.late,
            self.double + other.double,
            self.unknown + other.unknown,
            self.garbled + other.garbled,
            self.oversized + other.oversized,
            self.malformed + other.malformed,
            self.faults + other.faults,
        )

    @classmethod
    def of(  # noqa: PLR0913 - the counters of one end, by keyword
        cls, decoder: FrameDecoder, *, links: int, frames: int, pending: int = 0, late: int = 0, double: int = 0, unknown: int = 0
    ) -> LinkStatistics:
        """What one end counted by itself, and what its decoder counted."""
        return cls(
            links=links,
            pending=pending,
            frames=frames,
            late=late,
            double=double,
            unknown=unknown + decoder.unknown_kind,
            garbled=decoder.garbled,
            oversized=decoder.oversized,
            malformed=decoder.malformed,
            faults=decoder.faults,
        )
