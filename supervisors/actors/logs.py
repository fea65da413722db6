"""Logging in an actor goes to the node's standard error, one line per record, from every process into one place.

Thespian replaces the root logger in each actor by one that sends every record as a message. That is slow, drops under
load, and is not safe from a server's side thread. So the node remembers its own logging before Thespian starts, and each
actor puts it back in its first lines. Called in a process's first thread.

Nobody waits for a reader of the log: while the pipe, the terminal or the journal behind standard error takes nothing,
lines are dropped, and the next one that gets through is preceded by their number.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["configure", "event", "remember", "restore"]

_kept: dict[str, Any] = {}


class _Formatter(logging.Formatter):
    """`2026-11-23T09:00:00.123Z WARNING local/counter[4711] message`."""

    converter = staticmethod(time.gmtime)  # as the logging module documents it
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s")


class _Output(logging.Handler):
    """Writes lines to a descriptor without ever waiting. Used from any thread of any process that inherited it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(_Formatter())
        self.descriptor, self._write = _without_waiting(descriptor)
        self._lost = 0
        self._torn = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
            if self._lost:
                data = b"(%d lines were lost here)\n" % self._lost + data
            if self._torn:
                data = b"\n" + data
            written = self._write(data)
        except OSError:
            self._lost += 1
        except Exception:  # noqa: BLE001 - a record that cannot be formatted
            self.handleError(record)
        else:
            self._lost, self._torn = 0, written < len(data)


def _without_waiting(descriptor: int) -> tuple[int, Callable[[bytes], int]]:
    """A descriptor for the same end, and how to write to it without waiting.

    The flag O_NONBLOCK belongs to what was opened, and that is shared with the host. So the pipe or terminal is opened
    once more. A file never makes anybody wait, and opened once more it would have a second position.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        journal = socket.socket(fileno=os.dup(descriptor))
        return journal.fileno(), lambda data: journal.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with suppress(OSError):  # somebody else's terminal is written to as it is
            descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return descriptor, lambda data: os.write(descriptor, data)


def configure(level: str, descriptor: int = 2) -> int:
    """Log to that descriptor. Called once by the node, before anything is forked; returns what its children are to keep open."""
    output = _Output(descriptor)
    logging.basicConfig(level=level.upper(), handlers=[output], force=True)
    return output.descriptor


def remember() -> None:
    """Called by the node before Thespian starts."""
    _kept.update(root=logging.root, manager=logging.Logger.manager)


def restore() -> None:
    """Called by an actor in its first lines."""
    if _kept:
        logging.root = _kept["root"]
        logging.Logger.root = _kept["root"]
        logging.Logger.manager = _kept["manager"]


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """One structured line of an event: `event=child_exited supervisor=... child=... reason=...`."""
    parts = [f"event={name}"]
    for key, value in fields.items():
        text = str(value).replace("\n", "\\n")
        parts.append(f'{key}="{text}"' if " " in text else f"{key}={text}")
    logger.log(level, "%s", " ".join(parts))
