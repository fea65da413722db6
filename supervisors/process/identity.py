"""Who is who: a process is its pid, its start time and its run token.

A pid alone is a number that the kernel gives again. So nothing here signals by number: a `pidfd` is opened first, then
the start time and the token are compared, then the signal goes through the descriptor, which can mean no other process.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from supervisors.process.procfs import every_stat, read_stat, run_token

__all__ = ["ProcessIdentity", "kill_group"]


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one run. `start_time` in clock ticks since boot; `token` is the node's run token."""

    pid: int
    start_time: int
    token: str

    @classmethod
    def of(cls, pid: int, token: str) -> ProcessIdentity | None:
        """The identity of a running process, or None when it is gone or carries another token."""
        stat = read_stat(pid)
        if stat is None or stat.dead or run_token(pid) != token:
            return None
        return cls(pid, stat.start_time, token)

    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        stat = read_stat(self.pid)
        return stat is not None and not stat.dead and stat.start_time == self.start_time

    def send(self, number: int) -> bool:
        """Signal this very process; False when it is gone or the pid is somebody else's by now."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            stat = read_stat(self.pid)
            if stat is None or stat.start_time != self.start_time or run_token(self.pid) != self.token:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)


def kill_group(group: int, token: str) -> list[int]:
    """SIGKILL whatever a dead worker left in its process group; returns the pids.

    Called by a supervisor, after it has seen the leader end. The group's number may be another's by now, so each member
    is killed by its identity, never by the number of the group.
    """
    killed = []
    for stat in every_stat():
        if stat.group == group and not stat.dead:
            with suppress(OSError):
                left = ProcessIdentity.of(stat.pid, token)
                if left is not None and left.send(signal.SIGKILL):
                    killed.append(stat.pid)
    return killed
