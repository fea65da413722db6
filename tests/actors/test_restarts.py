"""Restarts in a row: no hung child, nothing gathered."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from supervisors import Supervisor, child
from tests.actors.restarts import kill_many_times
from tests.actors.servers import Inside
from tests.anatomy import anatomy, until
from tests.conftest import Running


async def test_sixty_restarts_in_a_row(running: Running) -> None:
    """Each within its bound, none hung, and the supervisor holds as many descriptors as before. `make chaos` does 300."""
    outcome = await kill_many_times(running, 60)
    assert outcome.after <= outcome.before
    assert outcome.seconds[30] < 0.3


async def test_thespian_keeps_nothing_of_the_dead(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each death its process, its address and its mail are forgotten, of servers and of supervisors."""
    journal = tmp_path / "journal"
    monkeypatch.setenv("TEST_THESPIAN_HOLDS", str(journal))
    tree = Supervisor("app", (child(Inside, name="probe"), Supervisor("inner", max_restarts=0)), max_restarts=1000)
    async with running(tree) as client:
        for _ in range(10):
            who = await anatomy(client)
            os.kill(who.pid("app/probe"), signal.SIGKILL)
            os.kill(who.pid("app/inner"), signal.SIGKILL)
            while (await anatomy(client)).pids & {who.pid("app/probe"), who.pid("app/inner"), 0}:
                pass
    lines = [line.split() for line in journal.read_text().splitlines() if line.startswith("local/app/")]
    assert len(lines) == 22
    for place, procs, children, mail, addresses in lines:
        # The other one, which lives, and may be registered or not yet.
        assert (procs, mail) == ("0", "0"), place
        assert int(children) <= 1
        assert int(addresses) <= 1


async def test_dead_supervisors_leave_no_sockets(running: Running) -> None:
    """SIGKILL of a supervisor, again and again, leaves in the directory what the living have and nothing else."""
    tree = Supervisor("app", (Supervisor("inner", (child(Inside, name="probe"),)),), max_restarts=1000)
    async with running(tree) as client:
        who = await anatomy(client)
        for _ in range(5):
            os.kill(who.pid("app/inner"), signal.SIGKILL)
            dead = {who.pid("app/inner"), who.pid("app/inner/probe"), 0}
            while (who := await anatomy(client)).pids & dead:
                pass
        living = {f"s{who.pid('app/inner/probe')}", f"d{who.pid('app')}", f"d{who.pid('app/inner')}"}
        expected = living | {"lock", "root", "registry"}
        assert await until(lambda: {each.name for each in client.directory.iterdir()} == expected, 1.0)
