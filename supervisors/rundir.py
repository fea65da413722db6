"""The directory of a node: its sockets and its lock, mode 0700, removed when the node ends.

Used by the host (which chooses the path), by the node (which makes it, holds its lock and removes it) and by whoever
attaches. The paths of Unix sockets are limited to 107 bytes, so everything in it has a short name.

The lock says whether the node lives, and its file holds the node's run token and control group. Whoever finds a directory
whose lock nobody holds clears up after that node: what it left running is killed, what it left on the disk is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from supervisors.errors import NodeError
from supervisors.process.cgroup import ControlGroup
from supervisors.process.identity import kill_run

__all__ = ["RunDirectory", "base_directory", "named", "sweep", "unnamed"]

_PREFIX = "dspex-"
_LOCK = "lock"
_NAME = re.compile(r"dspex-[0-9a-f]{8}(\.[0-9a-f]{8})?")
_LONGEST = 100
_LONGEST_NOTE = 8192
_UNFINISHED_SECONDS = 60.0
_TAKE_TIMEOUT = 0.25
"""Seconds in which another node that clears up here must be done with it."""


def base_directory() -> Path:
    """`$XDG_RUNTIME_DIR` where there is one of ours, else the directory for temporary files."""
    path = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    with suppress(OSError):
        if path.is_absolute() and path.stat().st_uid == os.geteuid() and os.access(path, os.W_OK):
            return path
    return Path(tempfile.gettempdir())


def named(name: str) -> Path:
    """The directory of the node with that name: the same for everyone who asks as the same user."""
    digest = hashlib.sha256(f"{os.geteuid()}/{name}".encode()).hexdigest()
    return _checked(base_directory() / f"{_PREFIX}{digest[:8]}")


def unnamed() -> Path:
    """A fresh directory's path, for an embedded node."""
    return _checked(base_directory() / f"{_PREFIX}{secrets.token_hex(4)}")


def _checked(path: Path) -> Path:
    longest = path / "registry"  # as long as `s` or `d` and the longest pid
    if len(os.fsencode(longest)) > _LONGEST:
        problem = f"{path} is too long for Unix sockets; set XDG_RUNTIME_DIR to a shorter directory"
        raise NodeError(problem)
    return path


class RunDirectory:
    """A node's hold on its directory. The lock is a POSIX one: no child inherits it, and any end of the node releases it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def take(self, token: str, cgroup: ControlGroup | None = None) -> None:
        """Make it, or take over one whose node has died. Raises `NodeError` when its node lives, OSError when it cannot be made.

        Called once, by the node, in its only thread; `token` is the node's run token, `cgroup` its control group.
        """
        sweep(self.path.parent, spare=self.path)
        deadline = time.monotonic() + _TAKE_TIMEOUT
        while not (self._take_over() or self._make()):
            if time.monotonic() > deadline:
                problem = f"a node runs in {self.path} already; attach to it, or give this one another name"
                raise NodeError(problem)
            time.sleep(0.005)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, os.fsencode(token if cgroup is None else f"{token}\n{cgroup.path}"), 0)

    def _take_over(self) -> bool:
        self._lock = _lock(self.path)
        if self._lock < 0:
            return False
        _kill_left(self._lock)
        self.clear()
        return True

    def _make(self) -> bool:
        # Locked before it has its name: a sweep of another node never sees it without its lock.
        unfinished = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        if self.path.exists():
            return False
        unfinished.mkdir(mode=0o700)
        self._lock = _lock(unfinished)
        try:
            unfinished.rename(self.path)
        except OSError:  # another node of that name was faster
            os.close(self._lock)
            self._lock = -1
            shutil.rmtree(unfinished, ignore_errors=True)
        return self._lock >= 0

    def clear(self) -> None:
        """Remove what an earlier tree has left, all but the lock."""
        for entry in self.path.iterdir():
            if entry.name != _LOCK:
                with suppress(OSError):
                    entry.unlink()

    def remove(self) -> None:
        """The node ends; or it has ended, and its host clears up after it. Does nothing while another node has it."""
        if self._lock < 0:
            with suppress(OSError, NodeError):
                self._lock = _lock(self.path)
            if self._lock < 0:
                return
            _kill_left(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def _lock(directory: Path) -> int:
    """The descriptor that holds the lock of a directory, or -1 when it is not there or another process holds its lock.

    Raises `NodeError` for a directory that is not private to this user.
    """
    try:
        stat = directory.lstat()
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o077 or not directory.is_dir() or directory.is_symlink():
            problem = f"{directory} is not a private directory of this user; remove it, or set XDG_RUNTIME_DIR"
            raise NodeError(problem)
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return -1
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    if os.fstat(descriptor).st_nlink == 0:  # whoever held it before has removed it
        os.close(descriptor)
        return -1
    return descriptor


def _kill_left(lock: int) -> None:
    """Kill what outlived the node whose lock this is: what its workers had started, when the node was killed itself."""
    token, _, cgroup = os.fsdecode(os.pread(lock, _LONGEST_NOTE, 0)).partition("\n")
    if token:
        kill_run(token)
    if cgroup:
        ControlGroup(Path(cgroup)).remove()


def sweep(base: Path, spare: Path) -> None:
    """Clear up after nodes that were killed together with everybody who would have done so. Called by a node that starts."""
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError, NodeError):
            if path == spare or not _NAME.fullmatch(path.name) or path.lstat().st_uid != os.geteuid():
                continue
            if "." in path.name and time.time() - path.lstat().st_mtime < _UNFINISHED_SECONDS:
                continue
            if not (path / _LOCK).exists() and any(path.iterdir()):
                continue  # no node ever made it
            descriptor = _lock(path)
            if descriptor >= 0:
                _kill_left(descriptor)
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)
