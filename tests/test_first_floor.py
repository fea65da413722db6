"""The way through: a counter under a supervisor, called, crashed, killed, restarted, stopped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisors import ActorDown, Refused, Supervisor, child
from supervisors.exits import Crash, Killed
from tests.conftest import Running
from tests.servers import Counter


def tree() -> Supervisor:
    """A counter that starts at 10, under a patient supervisor."""
    return Supervisor("app", (child(Counter, name="counter", args=(10,)),), max_restarts=100)


async def test_a_counter_counts(running: Running) -> None:
    """A call is answered by the handler's return value, and state is kept between calls."""
    async with running(tree()) as client:
        counter = client.ref("counter")
        assert await counter.call(("add", 2)) == 12
        await counter.cast(("add", 5))
        assert await counter.call("get") == 17


async def test_a_crash_tells_the_caller_and_the_supervisor(running: Running, node_log: Path) -> None:
    """The caller gets the reason, the supervisor's log the traceback, and the server starts again with fresh state."""
    async with running(tree()) as client:
        counter = client.ref("counter")
        assert await counter.call(("add", 2)) == 12
        with pytest.raises(ActorDown) as caught:
            await counter.call("crash")
        assert caught.value.reason == Crash("RuntimeError", "boom")
    text = node_log.read_text()
    assert "RuntimeError: boom" in text
    assert "servers.py" in text


async def test_a_kill_is_seen_and_mended(running: Running) -> None:
    """A call under way when its server is killed ends with `ActorDown(Killed)`, and the next one finds the fresh server."""
    async with running(tree()) as client:
        counter = client.ref("counter")
        os.kill(await counter.call("pid"), 9)
        with pytest.raises(ActorDown) as caught:
            await counter.call("get")
        assert caught.value.reason == Killed(9)
        assert await counter.call("get") == 10
        branch = (await client.tree()).find("counter")
        assert branch.restarts == 1
        assert branch.reason == "killed by SIGKILL"


async def test_a_refusal_is_no_crash(running: Running) -> None:
    """`Refused` reaches the caller with its code and details, and the same process answers the next call."""
    async with running(tree()) as client:
        counter = client.ref("counter")
        pid = await counter.call("pid")
        with pytest.raises(Refused, match="not today") as caught:
            await counter.call(("refuse", "not today"))
        assert (caught.value.code, caught.value.details) == ("no_way", {"value": 10})
        assert await counter.call("pid") == pid
