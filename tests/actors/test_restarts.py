"""Restarts in a row: no hung child, nothing gathered."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from supervisors import Client, Supervisor, child
from tests.actors.restarts import kill_many_times
from tests.actors.servers import Inside
from tests.anatomy import Anatomy, anatomy, until
from tests.conftest import Running


async def test_sixty_restarts_in_a_row(running: Running) -> None:
    """Each within its bound, none hung, and the supervisor holds as many descriptors as before. `make chaos` does 300."""
    outcome = await kill_many_times(running, 60)
    assert outcome.after <= outcome.before
    assert outcome.seconds[30] < 0.3


async def test_thespian_keeps_nothing_of_the_dead(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process, the address and the mail of a dead child are forgotten, also of one that died before it had an address."""
    journal, flag = tmp_path / "journal", tmp_path / "flag"
    monkeypatch.setenv("TEST_THESPIAN_HOLDS", str(journal))
    monkeypatch.setenv("TEST_DEAD_AT_BIRTH", str(flag))
    tree = Supervisor("app", (child(Inside, name="probe"), Supervisor("inner")), max_restarts=1000)
    async with running(tree) as client:
        who = await anatomy(client)
        flag.touch()
        os.kill(who.pid("app/inner"), signal.SIGKILL)
        while (await client.tree()).find("local/app/inner").restarts < 10:
            pass
        flag.unlink()
        for _ in range(5):
            who = await anatomy(client)
            os.kill(who.pid("app/probe"), signal.SIGKILL)
            while (await anatomy(client)).pids & {who.pid("app/probe"), 0}:
                pass
    lines = [line.split() for line in journal.read_text().splitlines() if line.startswith("local/app/")]
    assert len(lines) >= 17
    for place, procs, children, mail, addresses in lines:
        assert procs == "0", place
        # One of the two is always alive; it may have no address yet, and its first message may still wait for that.
        assert max(int(children), int(mail), int(addresses)) <= 1, place


async def whole_without(client: Client, gone: set[int]) -> Anatomy:
    """The node, as soon as its four processes below the root run without those."""
    while True:
        who = await anatomy(client)
        if len(list(who.tree.walk())) == 5 and not who.pids & gone:
            return who


async def test_dead_supervisors_leave_no_sockets(running: Running) -> None:
    """SIGKILL of a supervisor, again and again, leaves in the directory what the living have and nothing else."""
    tree = Supervisor("app", (Supervisor("inner", (child(Inside, name="probe"),)),), max_restarts=1000)
    async with running(tree) as client:
        who = await anatomy(client)
        for _ in range(5):
            os.kill(who.pid("app/inner"), signal.SIGKILL)
            who = await whole_without(client, {who.pid("app/inner"), who.pid("app/inner/probe"), 0})
        living = {f"s{who.pid('app/inner/probe')}", f"d{who.pid('app')}", f"d{who.pid('app/inner')}"}
        expected = living | {"lock", "root", "registry"}
        assert await until(lambda: {each.name for each in client.directory.iterdir()} == expected, 1.0)
