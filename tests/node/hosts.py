"""Hosts and nodes that a test starts as processes of their own, and may kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.anatomy import ROOT
from tests.conftest import wait_for

__all__ = ["HostProcess", "NodeProcess", "host_process", "node_process", "up"]

_HOST = """
import asyncio, json, sys
from supervisors import embed
from tests.node.trees import TREE
async def main():
    async with embed(TREE, log=sys.argv[1], log_level="info", preload=("tests.node.accidents",)) as client:
        tree = await client.tree()
        spawned = await client.ref("probe").call("spawn")
        print(json.dumps([client.node_pid, str(client.directory), spawned, [each.pid for each in tree.walk()]]), flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


@dataclass(frozen=True)
class HostProcess:
    """A host with an embedded node."""

    process: subprocess.Popen[str]
    log: Path

    def up(self) -> tuple[int, Path, int, list[int]]:
        """Wait until its tree is up: the node's pid, its directory, a process that a server started, the pids of the tree."""
        assert self.process.stdout is not None
        node, directory, spawned, pids = json.loads(self.process.stdout.readline())
        return node, Path(directory), spawned, pids


@contextmanager
def host_process(log: Path) -> Iterator[HostProcess]:
    """A host, killed at the end of the block."""
    command = [sys.executable, "-c", _HOST, str(log)]
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as process,
    ):
        try:
            yield HostProcess(process, log)
        finally:
            process.kill()


@dataclass(frozen=True)
class NodeProcess:
    """A node that runs by itself."""

    process: subprocess.Popen[bytes]
    log: Path

    def is_up(self) -> bool:
        """Whether its tree has come up."""
        return "the tree is up" in self.log.read_text()

    def sentences(self) -> str:
        """What it has said."""
        return self.log.read_text()


@contextmanager
def node_process(log: Path, *arguments: str, **options: Any) -> Iterator[NodeProcess]:
    """`python -m supervisors.node` with these arguments; its lines go to `log`. Killed at the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisors.node", *arguments],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **options.pop("env", {})},
            **{"stdin": subprocess.DEVNULL, **options},
        )
    try:
        yield NodeProcess(process, log)
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(3.0)
        process.kill()
        process.wait()


def up(node: NodeProcess) -> NodeProcess:
    """The node, when its tree is up."""
    assert wait_for(node.is_up, 10.0), node.sentences()
    return node
