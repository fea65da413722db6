"""`python -m supervisors.node`: a node that runs by itself, from a terminal or under an init system."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from supervisors import NodeDown, attach
from supervisors.node.__main__ import main
from supervisors.process.procfs import RUN_TOKEN, children_of, run_token
from tests.anatomy import answered, is_gone
from tests.conftest import processes_of, wait_for
from tests.node.hosts import node_process, up

TREE = "tests.node.trees:TREE"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_stops_it_in_order(node_log: Path, tmp_path: Path, runtime: Path, number: signal.Signals) -> None:
    """SIGTERM, SIGINT and SIGHUP stop the tree in order: `terminate` runs, the status is 0, nothing is left."""
    journal = tmp_path / "journal"
    with node_process(node_log, TREE, "--name", "x", env={"TEST_JOURNAL": str(journal)}) as node:
        up(node)
        node.process.send_signal(number)
        assert node.process.wait(5.0) == 0
        assert journal.read_text().splitlines() == ["init", "terminate shutdown (by x/app)"]
        assert processes_of(runtime) == []
        assert list(runtime.iterdir()) == []


def test_ctrl_c_reaches_the_whole_group_and_only_the_node_minds(node_log: Path, tmp_path: Path) -> None:
    """A terminal sends SIGINT to every process of the foreground group: the stop is as orderly as ever."""
    journal = tmp_path / "journal"
    with node_process(node_log, TREE, env={"TEST_JOURNAL": str(journal)}, process_group=0) as node:
        up(node)
        os.killpg(node.process.pid, signal.SIGINT)
        assert node.process.wait(5.0) == 0
        assert journal.read_text().splitlines()[-1] == "terminate shutdown (by local/app)"
        assert "Traceback" not in node.sentences()


def test_a_second_signal_ends_the_patience(node_log: Path, tmp_path: Path, runtime: Path) -> None:
    """A tree that takes for ever to stop is killed at the second SIGTERM; the status says that it was not in order."""
    journal = tmp_path / "journal"
    with node_process(node_log, "tests.node.trees:SLOW", env={"TEST_JOURNAL": str(journal)}) as node:
        up(node)
        node.process.terminate()
        assert wait_for(lambda: "terminate" in journal.read_text())
        start = time.monotonic()
        node.process.terminate()
        assert node.process.wait(5.0) == 1
        assert time.monotonic() - start < 1.0
        assert processes_of(runtime) == []


def test_a_stop_has_a_deadline(node_log: Path, runtime: Path) -> None:
    """After `--stop-timeout` seconds what has not stopped is killed."""
    with node_process(node_log, "tests.node.trees:SLOW", "--stop-timeout", "0.3") as node:
        up(node)
        node.process.terminate()
        start = time.monotonic()
        assert node.process.wait(5.0) == 1
        assert time.monotonic() - start < 1.5
        assert processes_of(runtime) == []


def test_a_stop_while_the_root_is_stopped(node_log: Path, runtime: Path) -> None:
    """A root that a signal has stopped cannot stop its tree: that is noticed in about a second, not at the deadline."""
    with node_process(node_log, TREE) as node:
        up(node)
        [admin] = children_of(node.process.pid)
        for pid in children_of(admin):
            os.kill(pid, signal.SIGSTOP)
        node.process.terminate()
        start = time.monotonic()
        assert node.process.wait(5.0) == 1
        assert time.monotonic() - start < 2.0
        assert processes_of(runtime) == []


def test_a_stop_while_it_boots(node_log: Path, runtime: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle of a boot that hangs ends the node at once, in order: there was nothing to stop yet."""
    accident = tmp_path / "accident"
    accident.write_text("admin STOP 100")
    arguments = (TREE, "--preload", "tests.node.accidents")
    with node_process(node_log, *arguments, env={"TEST_ACCIDENT": str(accident)}) as node:
        assert wait_for(lambda: accident.read_text() != "admin STOP 100")
        node.process.terminate()
        assert node.process.wait(2.0) == 0
        assert processes_of(runtime) == []


async def test_clients_attach_and_one_of_them_stops_it(node_log: Path) -> None:
    """A client finds it by its name, sees it through the loss of a tree, and may tell it to stop; the status is 0."""
    with node_process(node_log, TREE, "--name", "orders") as node:
        await asyncio.to_thread(up, node)
        async with attach("orders") as client:
            probe = client.ref("probe")
            pid = await probe.call("pid")
            assert (await client.tree()).id == "orders"
            [admin] = children_of(node.process.pid)
            os.kill(admin, signal.SIGKILL)
            while await answered(client) == pid:
                pass
            await client.stop_node()
            assert await asyncio.to_thread(node.process.wait, 5.0) == 0
        with pytest.raises(NodeDown, match="no node runs as 'orders'"):
            async with attach("orders"):
                pass


def test_a_name_is_taken_once(node_log: Path, tmp_path: Path) -> None:
    """A second node of that name says so in one sentence, ends with status 1, and does the first no harm."""
    with node_process(node_log, TREE, "--name", "x") as first:
        up(first)
        with node_process(tmp_path / "second.log", TREE, "--name", "x") as second:
            assert second.process.wait(10.0) == 1
            [line] = second.sentences().splitlines()
            assert "already; attach to it, or give this one another name" in line
        first.process.terminate()
        assert first.process.wait(5.0) == 0
        assert "broke" not in first.sentences()


@pytest.mark.parametrize(
    "tree, sentence",
    [
        ("nonsense", "'nonsense' names no tree; name it as package.module:NAME"),
        ("tests.node.trees:", "'tests.node.trees:' names no tree; name it as package.module:NAME"),
        (
            "tests.node.missing:TREE",
            "tests.node.missing does not import: ModuleNotFoundError: No module named 'tests.node.missing'",
        ),
        ("tests.node.trees:MISSING", "tests.node.trees has nothing called MISSING; name the tree as package.module:NAME"),
        ("tests.node.trees:NO_TREE", "tests.node.trees:NO_TREE is a int, not a Supervisor"),
        ("tests.node.broken:TREE", "tests.node.broken does not import: RuntimeError: broken on purpose"),
    ],
)
def test_a_tree_that_cannot_be_loaded(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tree: str, sentence: str
) -> None:
    """One clear sentence, and the status of bad usage."""
    monkeypatch.setenv(RUN_TOKEN, f"{os.getpid()}.token")  # else it would execute itself again, and so this test run
    assert main([tree]) == 2
    assert capfd.readouterr().err.splitlines() == [f"python -m supervisors.node: {sentence}"]


def test_it_wants_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an argument it shows its usage."""
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "name a tree: package.module:NAME of a Supervisor" in capsys.readouterr().err


def test_a_thread_started_by_an_import_is_named(node_log: Path) -> None:
    """A preloaded module that started a thread keeps the node from booting; the sentence names thread and cure."""
    with node_process(node_log, TREE, "--preload", "tests.node.threaded") as node:
        assert node.process.wait(10.0) == 1
        [line] = node.sentences().splitlines()
        assert "more than one thread (MainThread, the culprit), so it may not fork" in line
        assert "start it in a server" in line


def test_a_node_that_breaks_too_often_gives_up(node_log: Path, runtime: Path) -> None:
    """A tree that will not stay up is booted again five times; then the node says why, and ends with status 1."""
    with node_process(node_log, "tests.node.trees:CRASHES") as node:
        assert node.process.wait(20.0) == 1
        last = node.sentences().splitlines()[-1]
        assert "the tree broke too often (5 fresh trees in 30 s); last: shutdown (restart intensity reached" in last
        assert node.sentences().count("booting a fresh one") == 5
        assert processes_of(runtime) == []


def test_its_run_is_its_own(node_log: Path) -> None:
    """A node that is started from within another one, whose token it inherits, has a token of its own."""
    with node_process(node_log, TREE, env={RUN_TOKEN: "1.inherited"}) as node:
        up(node)
        token = run_token(node.process.pid)
        assert token is not None
        assert token.startswith(f"{node.process.pid}.")
        [admin] = children_of(node.process.pid)
        assert run_token(admin) == token


def test_nobody_reads_the_terminal(node_log: Path) -> None:
    """Standard input is the node's no more once it runs: reading a terminal in the background would stop a process."""
    read, write = os.pipe()
    with node_process(node_log, TREE, stdin=read) as node:
        up(node)
        [admin] = children_of(node.process.pid)
        for pid in (node.process.pid, admin, *children_of(admin)):
            assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    os.close(read)
    os.close(write)
    assert is_gone(node.process.pid)
