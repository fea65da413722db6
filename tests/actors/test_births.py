"""Law 1 and 2: who forks has one thread, and a start has a deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from supervisors import ActorDown, StartFailed, Supervisor, child
from supervisors.exits import Shutdown
from supervisors.process.procfs import children_of
from tests.actors.servers import Hangs, HangsInTheMaking, Inside
from tests.actors.trees import app, reason_of
from tests.anatomy import anatomy, answered, descriptors_of
from tests.conftest import Running


async def test_whoever_forks_has_one_thread(running: Running) -> None:
    """Node, admin, logger and supervisors have one thread while they serve; a server has one more, for its loop."""
    async with running(app()) as client:
        who = await anatomy(client)
        for pid in (who.node, who.admin, who.logger, who.root, who.pid("app")):
            assert len(os.listdir(f"/proc/{pid}/task")) == 1
        assert await client.ref("probe").call("thread names") == ["MainThread", "loop of local/app/probe"]


async def test_a_supervisor_with_a_second_thread_refuses_to_fork(running: Running, node_log: Path) -> None:
    """It crashes with `ForkRefused`, which names the thread, instead of forking a child that could hang."""
    tree = app(child(Inside), Supervisor("threaded", (child(Inside),)))
    with pytest.raises(StartFailed) as caught:
        async with running(tree):
            pass
    assert isinstance(caught.value.reason, Shutdown)
    assert "ForkRefused" in str(caught.value)
    assert "the culprit" in str(caught.value)
    assert "ForkRefused" in node_log.read_text()


async def test_servers_create_no_children(running: Running) -> None:
    """While a tree serves, restarts and computes, no server has a child process."""
    async with running(app()) as client:
        probe = client.ref("probe")
        os.kill(await probe.call("pid"), signal.SIGKILL)
        with pytest.raises(ActorDown):
            await probe.call("pid")
        await probe.call(("echo", "again"))
        for each in (await client.tree()).walk():
            assert bool(children_of(each.pid)) == (each.type == "supervisor")


@pytest.mark.parametrize(
    "spec",
    [
        child(Hangs, id="x", args=("sleeps",), start_timeout=0.2),
        child(Hangs, id="x", args=("blocks",), start_timeout=0.2),
        child(HangsInTheMaking, id="x", start_timeout=0.2),
        child(Inside, id="stuck at birth", start_timeout=0.2),
    ],
    ids=["asleep in init", "blocked in init", "before init", "before its first line"],
)
async def test_a_start_that_hangs_fails(running: Running, spec: object) -> None:
    """However a child hangs before it is ready, it is killed at its deadline and the start has failed for that reason."""
    start = time.monotonic()
    with pytest.raises(StartFailed, match=r"did not start: not ready within 0\.2 s"):
        async with running(app(spec)):
            pass
    assert time.monotonic() - start < 2.5


async def test_a_restart_that_hangs_is_tried_again(running: Running, tmp_path: Path) -> None:
    """A child that hangs when it is restarted is killed at its deadline, with `StartTimeout` as its reason, and counts."""
    hangs = child(Hangs, id="x", name="x", args=("blocks", str(tmp_path / "flag")), start_timeout=0.2)
    async with running(app(hangs)) as client:
        os.kill(await client.ref("x").call("pid"), signal.SIGKILL)
        start = time.monotonic()
        while await reason_of(client, "local/app/x") != "not ready within 0.2 s":
            assert time.monotonic() - start < 3.0
            await asyncio.sleep(0.02)
        assert (await client.tree()).find("local/app/x").restarts >= 2


async def test_a_child_that_dies_at_birth_does_not_start(running: Running) -> None:
    """One that ends before it has said a word fails at once, with its exit status."""
    with pytest.raises(StartFailed, match="exited with status 7"):
        async with running(app(child(Inside, id="dead at birth"))):
            pass


async def test_a_fork_that_fails_is_the_childs_failure(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel makes no process the restart has failed and is tried again; nothing is leaked meanwhile."""
    flag = tmp_path / "flag"
    monkeypatch.setenv("TEST_HOLD_FORKS", str(flag))
    async with running(app(max_restarts=100_000)) as client:
        probe = client.ref("probe")
        who = await anatomy(client)
        open_before = len(descriptors_of(who.pid("app")))
        flag.touch()
        os.kill(await probe.call("pid"), signal.SIGKILL)
        start = time.monotonic()
        while (await client.tree()).find("local/app/probe").restarts < 20:
            assert time.monotonic() - start < 5.0
            await asyncio.sleep(0.02)
        assert "ForkFailed" in await reason_of(client, "local/app/probe")
        flag.unlink()
        assert await answered(client) != who.pid("app/probe")
        assert len(descriptors_of(who.pid("app"))) <= open_before + 1
