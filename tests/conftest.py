"""What every test has: a directory of its own for sockets, and the proof that it left nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings

from supervisors import ChildSpec, Client, Supervisor, embed
from supervisors.process.procfs import RUN_TOKEN, every_stat

settings.register_profile("house", deadline=None)  # the machine is shared; time is bounded by each test's own limit
settings.load_profile("house")


def processes_of(runtime: Path) -> list[int]:
    """The pids of all nodes, and of all their processes, whose sockets are below `runtime`."""
    found = []
    wanted = f"XDG_RUNTIME_DIR={runtime}".encode()
    for stat in every_stat():
        try:
            environment = Path(f"/proc/{stat.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if not stat.dead and wanted in environment and any(each.startswith(RUN_TOKEN.encode()) for each in environment):
            found.append(stat.pid)
    return found


def sockets() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def wait_for(condition: Any, timeout: float = 5.0) -> bool:
    """Poll a condition that only the kernel knows of. For everything else there are events."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for sockets; when the test is over, no process of it, no directory in it, no socket of ours is left."""
    path = Path(tempfile.mkdtemp(prefix="sup-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    before = sockets()
    yield path
    gone = wait_for(lambda: not processes_of(path), 3.0)
    left = processes_of(path)
    for pid in left:
        os.kill(pid, 9)
    directories = [each.name for each in path.iterdir()]
    shutil.rmtree(path, ignore_errors=True)
    assert gone, f"processes left behind: {left}"
    assert not directories, f"directories left behind: {directories}"
    assert wait_for(lambda: not sockets() - before, 1.0), "sockets left behind"


class Running(Protocol):
    """The type of the `running` fixture."""

    def __call__(self, tree: Supervisor | ChildSpec, **options: Any) -> AbstractAsyncContextManager[Client]: ...


@pytest.fixture
def node_log(tmp_path: Path) -> Path:
    """Where the lines of the test's node go: never into the pipe that the test runner reads."""
    return tmp_path / "node.log"


@pytest.fixture
def running(node_log: Path) -> Running:
    """An embedded node whose lines go to `node_log`.

    `async with running(tree) as client: ...`
    """

    @asynccontextmanager
    async def run(tree: Supervisor | ChildSpec, **options: Any) -> AsyncIterator[Client]:
        async with embed(tree, log=node_log, log_level="info", **options) as client:
            yield client

    return run
