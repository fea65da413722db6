"""Law 7: nothing blocks a mailbox, and who does not run any more is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from supervisors import ActorDown, child
from supervisors.actors.server_actor import SWITCH_INTERVAL
from tests.actors.servers import Inside
from tests.actors.trees import app, reason_of
from tests.anatomy import anatomy, answered, is_gone, until
from tests.conftest import Running


async def test_threads_of_a_server_switch_often(running: Running) -> None:
    """Python's own interval would let a computing loop delay Thespian's thread a hundred times as long."""
    async with running(app()) as client:
        assert await client.ref("probe").call("switch interval") == pytest.approx(SWITCH_INTERVAL)


async def test_a_computing_handler_holds_up_nobody_else(running: Running) -> None:
    """While a server computes, its supervisor answers within milliseconds, and it is not taken for dead."""
    async with running(app()) as client:
        probe = client.ref("probe")
        computing = asyncio.create_task(probe.call(("compute", 1.2)))
        longest = 0.0
        while not computing.done():
            start = time.monotonic()
            await client.tree()
            longest = max(longest, time.monotonic() - start)
            await asyncio.sleep(0.02)
        assert await computing == "computed"
        assert longest < 0.3
        assert (await client.tree()).find("probe").restarts == 0


async def test_a_computing_server_is_stopped_at_its_deadline(running: Running) -> None:
    """A stop is decided at once, whatever the server does; it has `shutdown` seconds, then it is killed."""
    async with running(app(child(Inside, name="probe", shutdown=0.2))) as client:
        computing = asyncio.create_task(client.ref("probe").call(("block", 100.0)))
        await client.tree()
        pid = (await client.tree()).find("probe").pid
        start = time.monotonic()
    assert is_gone(pid)
    assert 0.15 < time.monotonic() - start < 1.5
    await asyncio.gather(computing, return_exceptions=True)


@pytest.mark.parametrize("target", ["server", "supervisor", "root", "admin", "logger", "node"])
async def test_a_stopped_process_is_replaced(running: Running, target: str) -> None:
    """SIGSTOP of any process is noticed within about a second; it is killed, and the tree is whole again."""
    async with running(app()) as client:
        who = await anatomy(client)
        pids = {"server": who.pid("app/probe"), "supervisor": who.pid("app"), "root": who.root}
        pid = {**pids, "admin": who.admin, "logger": who.logger, "node": who.node}[target]
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        assert await until(lambda: is_gone(pid), 1.5)
        assert time.monotonic() - start > 0.1  # not at the first look
        assert await answered(client)
        if target == "server":
            assert "SIGKILL (it was stopped by a signal" in await reason_of(client, "local/app/probe")


async def test_a_moments_stop_is_forgiven(running: Running) -> None:
    """A process that runs again before the next look is left alone, however often."""
    async with running(app()) as client:
        who = await anatomy(client)
        for pid in (who.pid("app/probe"), who.pid("app"), who.admin):
            for _ in range(3):
                os.kill(pid, signal.SIGSTOP)
                os.kill(pid, signal.SIGCONT)
        assert await client.ref("probe").call("pid") == who.pid("app/probe")
        assert (await anatomy(client)).pids == who.pids


async def test_a_log_that_nobody_reads_holds_up_nobody(running: Running, node_log: Path) -> None:
    """With a full pipe behind standard error, crashes are still handled and calls answered; the lines are lost."""
    os.mkfifo(node_log)
    reader = os.open(node_log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with running(app()) as client:
            for _ in range(40):  # each with a traceback, over the capacity of the pipe
                with pytest.raises(ActorDown):
                    await client.ref("probe").call(("raise", b"x" * 2000))
            assert await answered(client)
            assert (await client.tree()).find("probe").restarts == 40
            os.read(reader, 1 << 20)
            with pytest.raises(ActorDown):
                await client.ref("probe").call(("raise", b"heard"))
            assert await answered(client)
            assert b"lines were lost here" in os.read(reader, 1 << 20)
    finally:
        os.close(reader)
