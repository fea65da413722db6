"""Law 4: fatal signals are fatal; and what SIGTERM means to an actor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from supervisors import ActorDown, child
from supervisors.exits import Killed
from supervisors.process.procfs import children_of
from tests.actors.servers import Inside
from tests.actors.trees import app, reason_of
from tests.anatomy import anatomy, answered, is_gone, until
from tests.conftest import Running


async def test_a_segfault_ends_a_server_at_once(running: Running) -> None:
    """A real one, in C code: the caller learns of it in well under a second, with the signal as reason."""
    async with running(app()) as client:
        start = time.monotonic()
        with pytest.raises(ActorDown) as caught:
            await client.ref("probe").call("segfault")
        assert caught.value.reason == Killed(signal.SIGSEGV)
        assert time.monotonic() - start < 1.0


async def test_fatal_signals_end_a_server(running: Running) -> None:
    """SIGABRT, SIGBUS, SIGFPE and SIGILL end it with the signal as reason, and the next one serves."""
    async with running(app()) as client:
        for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
            os.kill(await client.ref("probe").call("pid"), number)
            with pytest.raises(ActorDown) as caught:
                await client.ref("probe").call(("sleep", 1))
            assert caught.value.reason == Killed(number)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
async def test_fatal_signals_end_supervisor_admin_and_logger(running: Running, number: signal.Signals) -> None:
    """Each is gone at once, instead of spinning in a handler, and the tree becomes whole."""
    async with running(app()) as client:
        who = await anatomy(client)
        os.kill(who.pid("app"), number)
        assert await until(lambda: is_gone(who.pid("app")), 1.0)
        assert await answered(client)
        assert await reason_of(client, "local/app") == f"killed by {number.name}"
        os.kill(who.logger, number)
        assert await until(lambda: is_gone(who.logger) and len(children_of(who.admin)) == 2, 1.0)
        assert await answered(client)
        assert (await client.tree()).pid == who.root  # the tree itself lived on
        os.kill(who.admin, number)
        assert await until(lambda: is_gone(who.admin), 1.0)
        assert await answered(client)


async def test_sigterm_stops_a_server_in_order(running: Running, tmp_path: Path) -> None:
    """A server that gets SIGTERM runs `terminate` and is replaced, being permanent."""
    journal = tmp_path / "journal"
    async with running(app(child(Inside, name="probe", args=(str(journal),)))) as client:
        pid = await client.ref("probe").call("pid")
        os.kill(pid, signal.SIGTERM)
        assert await until(lambda: is_gone(pid))
        assert await answered(client) != pid
        assert await reason_of(client, "local/app/probe") == "shutdown (SIGTERM)"
    assert "terminate shutdown (SIGTERM)" in journal.read_text()


async def test_sigterm_ends_a_supervisor_and_its_children(running: Running) -> None:
    """A supervisor that gets SIGTERM ends at once with its children, and its own supervisor replaces it."""
    async with running(app()) as client:
        who = await anatomy(client)
        os.kill(who.pid("app"), signal.SIGTERM)
        assert await until(lambda: is_gone(who.pid("app")) and is_gone(who.pid("app/probe")), 2.0)
        assert await answered(client)
        assert (await anatomy(client)).root == who.root
