"""Who is who: a process is its pid, its start time and its run token.

A pid alone is a number that the kernel gives again. So nothing here signals by number: a `pidfd` is opened first, then
the start time and the token are compared, then the signal goes through the descriptor, which can mean no other process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from supervisors.process.procfs import Stat, every_stat, read_stat, run_token

__all__ = ["ProcessIdentity", "kill_group", "kill_run"]

_MOST_ROUNDS = 20
"""Looks at all processes for those that were forked while the others were killed."""


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

    Called by a supervisor, after it has reaped the leader. While one of the group lives, the kernel gives its number to
    nobody. So a process with that pid means that the group was empty and the number is a stranger's, and nothing is done.
    Each member is killed by its identity, never by the number of the group.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []  # as a rule: a microsecond, where a look at all processes takes milliseconds
    except PermissionError:
        pass
    return _kill(lambda stat: stat.group == group, token, lambda: read_stat(group) is None)


def kill_run(token: str) -> list[int]:
    """SIGKILL whatever outlived a node of that run token; returns the pids. Called by whoever clears up after that node."""
    return _kill(lambda stat: stat.pid != os.getpid(), token, lambda: True)


def _kill(meant: Callable[[Stat], bool], token: str, still: Callable[[], bool]) -> list[int]:
    killed: dict[int, int] = {}
    for _ in range(_MOST_ROUNDS):
        news = False
        for stat in every_stat():
            if not meant(stat) or stat.dead or killed.get(stat.pid) == stat.start_time:
                continue
            left = ProcessIdentity(stat.pid, stat.start_time, token)
            if still() and left.send(signal.SIGKILL):
                killed[stat.pid] = stat.start_time
                news = True
        if not news:
            break
    return list(killed)
