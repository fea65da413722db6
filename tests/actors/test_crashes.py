"""Law 6: crash means crash."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from supervisors import ActorDown, child
from supervisors.exits import Crash, Killed
from tests.actors.servers import Inside
from tests.actors.trees import app, reason_of
from tests.anatomy import anatomy, answered, is_gone, until
from tests.conftest import Running


async def test_a_handler_that_raises_runs_once(running: Running, tmp_path: Path, node_log: Path) -> None:
    """One entry in the journal per message, `terminate` once, the reason to the caller and the traceback to the supervisor."""
    journal = tmp_path / "journal"
    async with running(app(child(Inside, name="probe", args=(str(journal),)))) as client:
        with pytest.raises(ActorDown) as caught:
            await client.ref("probe").call(("note and crash", "once"))
        assert caught.value.reason == Crash("RuntimeError", "once")
        assert await answered(client)
    lines = journal.read_text().splitlines()
    assert lines.count("once") == 1
    assert [line.split()[0] for line in lines] == ["init", "once", "terminate", "init", "terminate"]
    assert "Traceback (most recent call last)" in node_log.read_text()


async def test_a_silent_end_has_its_exit_status(running: Running) -> None:
    """A process that just exits reports nothing: its status is the reason."""
    async with running(app()) as client:
        with pytest.raises(ActorDown) as caught:
            await client.ref("probe").call(("exit", 3))
        assert str(caught.value.reason) == "exited with status 3"


@pytest.mark.parametrize(
    "data",
    [b"\x00\x00\x01\x00torn", b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1", b"\xff" * 65_536, b"\x00\x00\x00\x01\x07"],
    ids=["torn", "garbled", "endless", "no report"],
)
async def test_what_is_no_report_is_ignored(running: Running, data: bytes) -> None:
    """A torn or garbled report harms nobody: the supervisor lives, and the exit status tells how the child ended."""
    async with running(app()) as client:
        who = await anatomy(client)
        await client.ref("probe").call(("write report", data))
        os.kill(who.pid("app/probe"), signal.SIGKILL)
        with pytest.raises(ActorDown) as caught:
            await client.ref("probe").call("pid")
        assert caught.value.reason == Killed(signal.SIGKILL)
        assert (await client.tree()).find("local/app").pid == who.pid("app")


@pytest.mark.parametrize(
    "message",
    [
        ("raise", "\N{GRINNING FACE}".encode() * 30_000),
        ("raise", b"half \x80 a character"),
        "raise without a text",
        "stop the loop",
    ],
    ids=["too long", "untranslatable", "broken", "deaf"],
)
async def test_no_crash_is_too_odd_to_be_told(running: Running, message: object) -> None:
    """An exception too long, untranslatable or broken ends the server all the same, and so does the end of its loop."""
    async with running(app()) as client:
        pid = await client.ref("probe").call("pid")
        with suppress(ActorDown):
            await client.ref("probe").call(message, timeout=2.0)
        assert await until(lambda: is_gone(pid), 2.0)
        assert await answered(client)
        assert (await reason_of(client, "local/app/probe")).startswith("crash (")
