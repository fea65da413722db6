"""The few facts of `/proc` that the tree needs. Linux only; every read is one small file, in microseconds.

Called in any process and thread. A process that is gone gives `None`, never an error.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RUN_TOKEN", "Stat", "children_of", "every_stat", "read_stat", "run_token", "thread_count", "thread_names"]

RUN_TOKEN = "SUPERVISORS_RUN"  # noqa: S105 - the name of an environment variable, not a secret
"""Environment variable that every process of one node has from its first exec on; see `identity`."""

_START_TIME = 19  # its place after the command name; `man 5 proc` counts it as field 22


@dataclass(frozen=True, slots=True)
class Stat:
    """One line of `/proc/PID/stat`: `start_time` in clock ticks since the machine's boot, `state` one letter."""

    pid: int
    state: str
    parent: int
    group: int
    start_time: int

    @property
    def stopped(self) -> bool:
        """Stopped by a signal (SIGSTOP, SIGTSTP). A process under a debugger (`t`) is not meant."""
        return self.state == "T"

    @property
    def dead(self) -> bool:
        """Ended, though perhaps not yet reaped."""
        return self.state in "ZX"


def read_stat(pid: int) -> Stat | None:
    """The state of a process, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - half the cost of Path.open
            line = file.read(1024)
    except OSError:
        return None
    # The command name stands in parentheses and may hold anything, a ')' too: fields are counted from the last one.
    fields = line[line.rfind(b")") + 2 :].split()
    if len(fields) <= _START_TIME:
        return None
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[_START_TIME]))


def every_stat() -> list[Stat]:
    """The state of every process that this one can see; some milliseconds on a full machine."""
    stats = (read_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208
    return [stat for stat in stats if stat is not None]


def children_of(pid: int) -> list[int]:
    """The pids of a process's children, adopted and unreaped ones among them."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0) as file:  # noqa: PTH123
            return [int(each) for each in file.read().split()]
    except FileNotFoundError:
        # A kernel built without it, or a process that is gone: look at everybody's parent.
        return [stat.pid for stat in every_stat() if stat.parent == pid]
    except OSError:
        return []


def run_token(pid: int) -> str | None:
    """The run token in the environment that the process was started with, or None.

    A forked process shows its parent's: the kernel shows the environment of the last exec.
    """
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = RUN_TOKEN.encode() + b"="
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode(errors="replace")
    return None


def thread_count(pid: int | None = None) -> int:
    """How many threads a process has, this one unless told otherwise, as the kernel counts them (native threads too).

    0 for one that is gone.
    """
    try:
        return len(os.listdir(f"/proc/{'self' if pid is None else pid}/task"))  # noqa: PTH208 - a str list is all that is needed
    except OSError:
        return 0


def thread_names() -> list[str]:
    """What the threads of this process are called: Python's by their own names, native ones as the kernel has them."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    names = []
    for entry in sorted(os.listdir("/proc/self/task"), key=int):  # noqa: PTH208
        try:
            native = Path(f"/proc/self/task/{entry}/comm").read_text(errors="replace").strip()
        except OSError:
            continue  # it has just ended
        names.append(known.get(int(entry), f"native thread {entry} {native!r}"))
    return names
