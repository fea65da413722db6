"""The pipe from a child to its supervisor: "ready", and how it ended. Read when it is readable and once more on death.

The child writes from whichever thread notices; each report is one length-prefixed value. Whatever dies while it writes
leaves a torn last report, which is ignored: the exit status tells the rest. So is what is no report at all: the pipe
belongs to a process that runs anybody's code.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from supervisors.errors import WireError
from supervisors.exits import Crash
from supervisors.wire.codec import pack, unpack

__all__ = ["ReportReader", "open_reports", "send_exit", "send_report"]

_LENGTH = 4
_LIMIT = 60_000  # under a pipe's capacity: a report never waits for its reader
_CHUNK = 65_536


def open_reports() -> tuple[int, int]:
    """A fresh pipe: (the supervisor's end, the child's end). Called before the fork."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def send_report(descriptor: int, report: dict[str, Any]) -> None:
    """Write one report. A supervisor that is gone is no error: this process dies with it. ValueError for one that is too long."""
    data = pack(report)
    if len(data) > _LIMIT:
        raise ValueError(f"a report of {len(data)} bytes is too long")
    with suppress(OSError):
        os.write(descriptor, len(data).to_bytes(_LENGTH, "big") + data)


def send_exit(descriptor: int, report: dict[str, Any]) -> None:
    """Write the last report. Never raises: a reason that cannot travel, or is too long, is told in short."""
    try:
        send_report(descriptor, report)
    except (WireError, ValueError, TypeError):
        reason = report["exit"]
        error = reason.error if isinstance(reason, Crash) else type(reason).__name__
        message = "its reason could not be reported in full"
        if isinstance(reason, Crash):
            message = f"{reason.message[:2000]} ({message})".encode(errors="backslashreplace").decode()
        with suppress(WireError, ValueError, TypeError):
            send_report(descriptor, {**report, "exit": Crash(error, message)})


class ReportReader:
    """The supervisor's end. `read` never waits, and takes a bounded amount each time, however much the child writes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = b""

    def read(self) -> list[dict[str, Any]]:
        """The reports that have come since the last call."""
        with suppress(OSError):
            self._buffer += os.read(self.descriptor, _CHUNK)
        reports = []
        while len(self._buffer) >= _LENGTH:
            length = int.from_bytes(self._buffer[:_LENGTH], "big")
            end = _LENGTH + length
            if length <= _LIMIT and len(self._buffer) < end:
                break
            report = _understood(self._buffer[_LENGTH:end]) if length <= _LIMIT else None
            if report is None:
                self._buffer = b""  # the step is lost: what else has come means nothing
                break
            reports.append(report)
            self._buffer = self._buffer[end:]
        return reports

    def close(self) -> None:
        """Called when the child's end has been dealt with."""
        os.close(self.descriptor)


def _understood(data: bytes) -> dict[str, Any] | None:
    try:
        report = unpack(data)
    except WireError:
        return None
    return report if isinstance(report, dict) else None
