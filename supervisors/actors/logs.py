"""Logging in an actor goes to the node's standard error, one line per record, from every process into one place.

Thespian replaces the root logger in each actor by one that sends every record as a message. That is slow, drops under
load, and is not safe from a server's side thread. So the node remembers its own logging before Thespian starts, and each
actor puts it back in its first lines. Called in a process's first thread.
"""

from __future__ import annotations

import logging
import sys
import time
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


def configure(level: str) -> None:
    """Called once by the node, before anything is forked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


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
