"""Preloaded by a node, this makes a process of its tree have an accident right after its fork, once or always.

TEST_ACCIDENT is the path of a file that holds `WHO ACTION TIMES`: admin, logger or root; KILL, STOP or THREAD (it gets
one); how often yet.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

__all__: list[str] = []

_PLACES = {(1, 1): "admin", (2, 1): "logger", (2, 2): "root"}


class _Place:
    """How deep below the node this process is, and how often it has forked."""

    depth = 0
    forks = 0


def _before() -> None:
    _Place.forks += 1


def _in_child() -> None:
    _Place.depth += 1
    index = 1 if _Place.depth == 1 else _Place.forks
    _Place.forks = 0
    path = Path(os.environ.get("TEST_ACCIDENT", "/nowhere"))
    if not path.exists():
        return
    who, action, times = path.read_text().split()
    if who == _PLACES.get((_Place.depth, index)) and int(times) > 0:
        path.write_text(f"{who} {action} {int(times) - 1}")
        if action == "THREAD":
            threading.Thread(target=threading.Event().wait, name="the culprit", daemon=True).start()
        else:
            os.kill(os.getpid(), signal.Signals[f"SIG{action}"])


os.register_at_fork(before=_before, after_in_child=_in_child)
