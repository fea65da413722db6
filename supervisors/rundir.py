"""The directory of a node: its sockets and its lock, mode 0700, removed when the node ends.

Used by the host (which chooses the path), by the node (which makes it, holds its lock and removes it) and by whoever
attaches. The paths of Unix sockets are limited to 107 bytes, so everything in it has a short name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from supervisors.errors import NodeError

__all__ = ["RunDirectory", "base_directory", "named", "unnamed"]

_PREFIX = "dspex-"
_LOCK = "lock"
_LONGEST = 100
_UNFINISHED_SECONDS = 60.0


def base_directory() -> Path:
    """`$XDG_RUNTIME_DIR` where there is one of ours, else the directory for temporary files."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        path = Path(runtime)
        with suppress(OSError):
            if path.stat().st_uid == os.geteuid() and os.access(path, os.W_OK):
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
    longest = path / "registry"
    if len(os.fsencode(longest)) > _LONGEST:
        problem = f"{path} is too long for Unix sockets; set XDG_RUNTIME_DIR to a shorter directory"
        raise NodeError(problem)
    return path


class RunDirectory:
    """A node's hold on its directory. The lock is a POSIX one: no child inherits it, and any end of the node releases it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def take(self) -> None:
        """Make it, or take over one whose node has died. Raises `NodeError` when its node lives. Called once, by the node."""
        sweep(self.path.parent, spare=self.path)
        if self.path.exists():
            self._lock = _lock(self.path)
            if self._lock < 0:
                problem = f"a node runs in {self.path} already; attach to it, or give this one another name"
                raise NodeError(problem)
            self.clear()
            return
        # Locked before it has its name: a sweep of another node never sees it without its lock.
        unfinished = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        unfinished.mkdir(mode=0o700)
        self._lock = _lock(unfinished)
        unfinished.rename(self.path)

    def clear(self) -> None:
        """Remove what an earlier tree has left, all but the lock."""
        for entry in self.path.iterdir():
            if entry.name != _LOCK:
                with suppress(OSError):
                    entry.unlink()

    def remove(self) -> None:
        """The node ends."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def descriptors(self) -> frozenset[int]:
        """What no child may keep."""
        return frozenset({self._lock} - {-1})


def _lock(directory: Path) -> int:
    """The descriptor that holds the lock of a directory, or -1 when another process holds it. Refuses a stranger's directory."""
    stat = directory.lstat()
    if stat.st_uid != os.geteuid() or stat.st_mode & 0o077 or directory.is_symlink():
        problem = f"{directory} is not a private directory of this user; remove it, or set XDG_RUNTIME_DIR"
        raise NodeError(problem)
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def sweep(base: Path, spare: Path) -> None:
    """Remove the directories of nodes that were killed together with everybody who would have removed them."""
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError, NodeError):
            if path == spare or not path.is_dir() or path.lstat().st_uid != os.geteuid():
                continue
            if "." in path.name and time.time() - path.lstat().st_mtime < _UNFINISHED_SECONDS:
                continue
            descriptor = _lock(path)
            if descriptor >= 0:
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)
