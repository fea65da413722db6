"""Nobody outlives the tree: SIGKILL of each process, and what is there afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from supervisors import Supervisor, child
from supervisors.rundir import unnamed
from tests.anatomy import anatomy, answered, is_gone, until
from tests.conftest import Running, processes_of, wait_for
from tests.node.hosts import host_process
from tests.servers import Probe

TREE = Supervisor("app", (child(Probe, name="probe"),), max_restarts=100)


def _port(pid: int) -> int:
    """The lowest port on which the process listens: an admin's is chosen below all others."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [line for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]
    return min(int(line[1].partition(":")[2], 16) for line in listening)


@pytest.mark.parametrize("target", ["admin", "root"])
async def test_a_tree_without_its_head_is_replaced(running: Running, target: str) -> None:
    """When admin or root die, every process of that tree is gone, and a fresh one serves on the same port."""
    async with running(TREE) as client:
        before = await anatomy(client)
        port = _port(before.admin)
        start = time.monotonic()
        os.kill(before.admin if target == "admin" else before.root, signal.SIGKILL)
        assert await until(lambda: all(is_gone(pid) for pid in before.pids - {before.node}), 1.0)
        assert await answered(client) != before.pid("app/probe")
        assert time.monotonic() - start < 2.0
        after = await anatomy(client)
        assert after.node == before.node
        assert _port(after.admin) == port


@pytest.mark.parametrize("target", ["supervisor", "server", "logger"])
async def test_only_what_died_is_replaced(running: Running, target: str) -> None:
    """When a supervisor, a server or the logger die, it and what is below it are replaced, and all the others live on."""
    async with running(TREE) as client:
        before = await anatomy(client)
        below = {before.pid("app/probe")}
        dead = {"supervisor": below | {before.pid("app")}, "server": below, "logger": {before.logger}}[target]
        os.kill({"supervisor": before.pid("app"), "server": before.pid("app/probe"), "logger": before.logger}[target], 9)
        assert await until(lambda: all(is_gone(pid) for pid in dead), 1.0)
        await answered(client)
        after = await anatomy(client)
        assert before.pids - after.pids == dead


async def test_a_node_that_was_killed_is_replaced_by_its_client(running: Running) -> None:
    """SIGKILL of the node leaves no process of its tree; the client boots another one, in the same directory."""
    async with running(TREE) as client:
        before = await anatomy(client)
        directory = client.directory
        os.kill(before.node, signal.SIGKILL)
        assert await until(lambda: all(is_gone(pid) for pid in before.pids), 1.0)
        assert await answered(client) != before.pid("app/probe")
        after = await anatomy(client)
        assert not after.pids & before.pids
        assert client.directory == directory
    assert not directory.exists()


async def test_what_outlived_a_killed_node_is_killed_by_the_next(running: Running) -> None:
    """A process that a server had started outlives the SIGKILL of the node only until the next one has taken over."""
    async with running(TREE) as client:
        spawned = await client.ref("probe").call("spawn")
        assert client.node_pid is not None
        os.kill(client.node_pid, signal.SIGKILL)
        await answered(client)
        assert await until(lambda: is_gone(spawned), 1.0)


def test_a_dead_hosts_node_ends(runtime: Path, node_log: Path) -> None:
    """SIGKILL of the host: within three seconds every process is gone, what a server had started too, and so is the directory."""
    with host_process(node_log) as host:
        node, directory, spawned, pids = host.up()
        assert not is_gone(spawned)
        host.process.kill()
        host.process.wait()
        assert wait_for(lambda: all(is_gone(pid) for pid in (node, spawned, *pids)), 3.0)
        assert wait_for(lambda: not processes_of(runtime), 0.5)
        assert not directory.exists()


def test_a_stopped_hosts_node_waits(node_log: Path) -> None:
    """A host that job control has stopped keeps its node: it may go on at any time."""
    with host_process(node_log) as host:
        node, directory, _, pids = host.up()
        os.kill(host.process.pid, signal.SIGSTOP)
        assert not wait_for(lambda: any(is_gone(pid) for pid in (node, *pids)), 0.8)
        os.kill(host.process.pid, signal.SIGCONT)
        assert directory.exists()


def test_a_host_that_dies_while_its_node_boots(
    runtime: Path, node_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node notices in the middle of its boot, however that hangs, and is gone within three seconds."""
    accident = tmp_path / "accident"
    accident.write_text("admin STOP 100")
    monkeypatch.setenv("TEST_ACCIDENT", str(accident))
    with host_process(node_log) as host:
        assert wait_for(lambda: accident.read_text() != "admin STOP 100")  # so its admin hangs
        host.process.kill()
        host.process.wait()
        assert wait_for(lambda: not processes_of(runtime), 3.0)
        assert list(runtime.iterdir()) == []


def test_directories_of_the_dead_are_swept(runtime: Path, node_log: Path) -> None:
    """When host and node are killed together their directory stays, until another node of this user starts."""
    with host_process(node_log) as host:
        node, directory, spawned, _ = host.up()
        host.process.kill()
        os.kill(node, signal.SIGKILL)
        host.process.wait()
        assert wait_for(lambda: is_gone(node))
        assert directory.exists()
    with host_process(node_log) as host:
        _, other, _, _ = host.up()
        assert other != directory
        assert not directory.exists()
        assert wait_for(lambda: is_gone(spawned), 1.0)
        host.process.kill()
        host.process.wait()
        assert wait_for(lambda: not processes_of(runtime), 3.0)


def test_a_stranger_that_got_the_owners_pid_is_not_the_owner() -> None:
    """A node whose parent is not its owner any more refuses to start, whoever has that pid by now."""
    from supervisors.errors import NodeError
    from supervisors.node.lookout import Lookout

    with subprocess.Popen(["sleep", "100"]) as stranger:
        with pytest.raises(NodeError, match="that owns this node is gone already"):
            Lookout(stranger.pid)
        stranger.kill()


@pytest.mark.parametrize("who", ["admin", "logger", "root"])
@pytest.mark.parametrize("action", ["KILL", "STOP"])
async def test_a_boot_that_is_hit_is_begun_again(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, action: str
) -> None:
    """A process that is killed or stopped in the middle of the first boot costs a moment, not the node."""
    accident = tmp_path / "accident"
    accident.write_text(f"{who} {action} 1")
    monkeypatch.setenv("TEST_ACCIDENT", str(accident))
    start = time.monotonic()
    async with running(TREE, preload=("tests.node.accidents",)) as client:
        assert await answered(client)
    assert accident.read_text() == f"{who} {action} 0"
    assert time.monotonic() - start < 5.0


async def test_a_fresh_tree_that_is_hit_is_begun_again(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same while a tree is being replaced: again and again, within the limit."""
    accident = tmp_path / "accident"
    monkeypatch.setenv("TEST_ACCIDENT", str(accident))
    async with running(TREE, preload=("tests.node.accidents",)) as client:
        before = await anatomy(client)
        accident.write_text("root KILL 3")
        os.kill(before.admin, signal.SIGKILL)
        assert await until(lambda: is_gone(before.pid("app/probe")))
        await answered(client)
        assert accident.read_text() == "root KILL 0"
        assert (await anatomy(client)).node == before.node


def test_unnamed_directories_differ(runtime: Path) -> None:
    """Two embedded nodes never share a directory."""
    assert unnamed() != unnamed()
