"""What a subreaper owes: to bury the orphans that come home to it, and, at the end, to leave nothing behind.

Called in the node, in its only thread. It signals children of its own only, adopted ones among them. Those are reaped
nowhere but here, so their pids are certainly theirs.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from supervisors.process.procfs import children_of, read_stat

__all__ = ["bury_orphans", "kill_descendants"]


def bury_orphans(spare: int) -> list[int]:
    """Reap dead orphans and kill those whose worker is gone; returns the pids of the killed. `spare` is the one own child.

    An adopted process that still has its process group's leader was started by a worker that lives, and stays.
    """
    killed = []
    for pid in children_of(os.getpid()):
        stat = read_stat(pid)
        if pid == spare or stat is None:
            continue
        if stat.dead:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            continue
        leader = read_stat(stat.group)
        if leader is None or leader.dead:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def kill_descendants(timeout: float) -> bool:
    """SIGKILL whatever descends from this process, and wait until it is gone. False when something survived `timeout` seconds.

    Killing a child brings its children here, so that all of them come by in the end.
    """
    deadline = time.monotonic() + timeout
    while True:
        for pid in children_of(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
