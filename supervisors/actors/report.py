"""The pipe from a child to its supervisor: "ready", and how it ended. Read when it is readable and once more on death.

The child writes from whichever thread notices; each report is one length-prefixed value. Whatever dies while it writes
leaves a torn last report, which is ignored: the exit status tells the rest.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from supervisors.wire.codec import pack, unpack

__all__ = ["ReportReader", "open_reports", "send_report"]

_LENGTH = 4
_LIMIT = 60_000  # under a pipe's capacity: a report never waits for its reader


def open_reports() -> tuple[int, int]:
    """A fresh pipe: (the supervisor's end, the child's end). Called before the fork."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def send_report(descriptor: int, report: dict[str, Any]) -> None:
    """Write one report. A supervisor that is gone is no error: this process dies with it."""
    data = pack(report)
    if len(data) > _LIMIT:
        raise ValueError(len(data))
    with suppress(OSError):
        os.write(descriptor, len(data).to_bytes(_LENGTH, "big") + data)


class ReportReader:
    """The supervisor's end. `read` never waits."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = b""

    def read(self) -> list[dict[str, Any]]:
        """The reports that have come since the last call."""
        while True:
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:
                break
            if not data:
                break
            self._buffer += data
        reports = []
        while len(self._buffer) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._buffer[:_LENGTH], "big")
            if len(self._buffer) < end:
                break
            reports.append(unpack(self._buffer[_LENGTH:end]))
            self._buffer = self._buffer[end:]
        return reports

    def close(self) -> None:
        """Called when the child's end has been dealt with."""
        os.close(self.descriptor)
