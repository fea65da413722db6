"""The processes of a running node, told apart; and what the kernel knows of each."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisors import CallFailed, Client
from supervisors.process.procfs import children_of, read_stat
from supervisors.tree import Branch

__all__ = ["Anatomy", "anatomy", "answered", "descriptors_of", "is_gone", "living_children", "run_script", "until"]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Anatomy:
    """Who is who in a node."""

    node: int
    admin: int
    logger: int
    root: int
    tree: Branch

    def pid(self, place: str) -> int:
        """Of the process at that place below the root, `app/probe` say."""
        return self.tree.find(f"{self.tree.id}/{place}").pid

    @property
    def pids(self) -> set[int]:
        """Of all of them."""
        return {self.node, self.admin, self.logger, *(each.pid for each in self.tree.walk())}


async def anatomy(client: Client) -> Anatomy:
    """Of the client's embedded node, whose tree is up."""
    tree = await client.tree()
    assert client.node_pid is not None
    root = read_stat(tree.pid)
    assert root is not None
    admin = root.parent  # the node may have adopted somebody besides
    # A logger that has just died is a zombie until the admin comes to it, and then there is none for a moment.
    assert await until(lambda: len(living_children(admin)) == 2, 2.0)
    [logger] = living_children(admin) - {tree.pid}
    return Anatomy(client.node_pid, admin, logger, tree.pid, tree)


def living_children(pid: int) -> set[int]:
    """The children of a process that are not dead."""
    stats = [read_stat(each) for each in children_of(pid)]
    return {stat.pid for stat in stats if stat is not None and not stat.dead}


async def answered(client: Client, name: str = "probe") -> int:
    """The pid of the server of that name, as soon as it answers."""
    while True:
        try:
            return int(await client.ref(name).call("pid"))
        except CallFailed:
            await asyncio.sleep(0.002)


def is_gone(pid: int) -> bool:
    """Whether that process does not run any more."""
    stat = read_stat(pid)
    return stat is None or stat.dead


def descriptors_of(pid: int) -> dict[int, str]:
    """What a process has open."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue
    return found


async def until(condition: Callable[[], bool], timeout: float = 5.0) -> bool:
    """As `wait_for`, but the event loop goes on: the client's own care for its node among it."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


def run_script(code: str, *, arguments: list[str] | None = None, timeout: float = 10.0) -> list[str]:
    """Run a script in a clean interpreter, which may fork as it likes; returns the lines it prints. Fails when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *(arguments or [])],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
