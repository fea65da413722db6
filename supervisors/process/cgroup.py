"""What a server starts is held together by a control group of its own, where this user may make some.

A process can leave its process group and its session; a control group (version 2) it can only leave if it is let. So one
write ends all that a dead server has started, however it hid, and no number that may be another's is involved.

There is one where the node's own group is handed to this user: a systemd unit with `Delegate=yes` (systemd marks it so),
or the root of a container's hierarchy. Elsewhere everything works without. Linux 5.14 or newer.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ControlGroup"]

_PREFIX = "dspex-"
_MARKS = ("user.delegate", "trusted.delegate")
_MOUNT_ROOT, _MOUNT_POINT = 3, 4  # fields of `/proc/self/mountinfo`, see `man 5 proc`
_TRIES = 3
_REMOVE_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The group of one node; below it one for each of its servers, named by the server's pid. `path` is a directory."""

    path: Path

    @classmethod
    def make(cls, name: str) -> ControlGroup | None:
        """A group below that of this process, or None where there can be none. Called once, by the node."""
        own = _own_group()
        if own is None or not _is_ours(own):
            return None
        made = cls(own / f"{_PREFIX}{name}")
        try:
            made.path.mkdir()
        except OSError:
            return None
        if not (made.path / "cgroup.kill").exists():
            made.path.rmdir()
            return None
        return made

    def join(self) -> None:
        """Put this process, and all that it starts from now on, into a group of its own. Called in a server's first lines.

        Takes some milliseconds. Where it fails, the process group has to do.
        """
        mine = self.path / str(os.getpid())
        for _ in range(_TRIES):  # one that is empty yet may be tidied away by a supervisor at this very moment
            with suppress(OSError):
                mine.mkdir(exist_ok=True)
                _write(mine / "cgroup.procs", b"0")
                return

    def end(self, pid: int) -> list[int]:
        """Kill what a dead server has left in its group; returns the pids. Called by its supervisor, and waits for nothing."""
        theirs = self.path / str(pid)
        try:
            left = [int(each) for each in (theirs / "cgroup.procs").read_bytes().split()]
            if left:
                _write(theirs / "cgroup.kill", b"1")
            theirs.rmdir()
        except FileNotFoundError:
            return []
        except OSError:
            pass  # not dead yet: `tidy` removes the group later
        return left

    def tidy(self) -> None:
        """Remove the groups that have become empty; the others the kernel keeps."""
        with suppress(OSError):
            for entry in os.scandir(self.path):
                if entry.name.isdigit():
                    with suppress(OSError):
                        os.rmdir(entry.path)  # noqa: PTH106

    def remove(self) -> None:
        """Kill whatever is left in it, and remove it. Called when the node ends, by itself, or has ended, by the next one.

        Waits at the most half a second for the killed to be gone.
        """
        if not self.path.name.startswith(_PREFIX):
            return
        with suppress(OSError):
            _write(self.path / "cgroup.kill", b"1")
        deadline = time.monotonic() + _REMOVE_TIMEOUT
        while self.path.exists() and time.monotonic() < deadline:
            self.tidy()
            with suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.002)


def _write(path: Path, data: bytes) -> None:
    """One write without making a file: in a hierarchy that has gone there is nothing to write to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _own_group() -> Path | None:
    """The directory of this process's own group."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        if own is not None and rest.startswith("cgroup2 "):
            root, point = fields.split()[_MOUNT_ROOT], fields.split()[_MOUNT_POINT]
            if own.startswith(root):
                return Path(point) / own.removeprefix(root).lstrip("/")
    return None


def _is_ours(group: Path) -> bool:
    """Whether whoever manages the hierarchy has handed this group on: nobody else makes groups below it then."""
    if not os.access(group / "cgroup.procs", os.W_OK):
        return False
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(group, mark) == b"1":
                return True
    return os.path.ismount(group)  # the root of a hierarchy that nobody manages
