"""The law of processes as it holds inside the actors of a running tree."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from supervisors import ActorDown, CallTimeout, Client, StartFailed, Supervisor, child
from supervisors.actors.server_actor import SWITCH_INTERVAL
from supervisors.exits import Crash, Killed, Shutdown
from supervisors.process.procfs import children_of
from tests.actors.servers import Hangs, HangsInTheMaking, Inside
from tests.anatomy import anatomy, answered, descriptors_of, is_gone, until
from tests.conftest import Running


def app(*children: object, **options: int) -> Supervisor:
    """A supervisor that bears a lot."""
    return Supervisor("app", children or (child(Inside, name="probe"),), **{"max_restarts": 100, **options})  # type: ignore[arg-type]


async def reason_of(client: Client, place: str) -> str:
    """How the last incarnation at that place of the tree ended."""
    return (await client.tree()).find(place).reason


# -- 1. who forks has one thread ------------------------------------------------------------------------------------------


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


# -- 2. a start has a deadline --------------------------------------------------------------------------------------------


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


# -- 4. fatal signals are fatal -------------------------------------------------------------------------------------------


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


# -- 5. after a fork ------------------------------------------------------------------------------------------------------


async def test_actors_collect_their_garbage(running: Running) -> None:
    """The collector is on in a server, and what it shares with the node is frozen."""
    async with running(app()) as client:
        assert await client.ref("probe").call("collector") == (True, True)


async def test_a_server_has_nothing_of_its_ancestors_and_siblings(running: Running) -> None:
    """No socket, epoll, pidfd or pipe in a server is one of its relatives', but for the pipes between it and its supervisor."""
    tree = app(*(child(Inside, id=f"s{index}", name=f"s{index}") for index in range(4)))
    async with running(tree) as client:
        for index in range(4):
            await client.ref(f"s{index}").call("pid")
        os.kill(await client.ref("s1").call("pid"), signal.SIGKILL)
        with pytest.raises(ActorDown):
            await client.ref("s1").call("pid")
        await client.ref("s1").call("pid")  # forked while the others have connections
        who = await anatomy(client)
        supervisor = _private(who.pid("app"))
        others = {pid: _private(pid) for pid in who.pids}
        for index in range(4):
            pid = who.pid(f"app/s{index}")
            own = others[pid]
            shared = own & supervisor
            assert all(each.startswith("pipe:") for each in shared), shared
            assert len(shared) <= 3  # its reports, and the two that multiprocessing makes
            relatives = set().union(*(others[each] for each in others if each not in (pid, who.pid("app"))))
            assert not own & relatives, own & relatives
            kinds = list(descriptors_of(pid).values())
            assert "anon_inode:[pidfd]" not in kinds
            assert kinds.count("anon_inode:[eventpoll]") <= 2  # its own loop's, and Thespian's while it waits
            assert not any(each.endswith("/lock") for each in kinds)


def _private(pid: int) -> set[str]:
    """What of its open things can be told from everybody else's."""
    return {each for each in descriptors_of(pid).values() if each.startswith(("pipe:", "socket:"))}


@pytest.mark.parametrize("message", ["close everything", "unregister everything"])
async def test_a_child_that_closes_everything_deafens_nobody(running: Running, message: str) -> None:
    """Whatever a server closes or unregisters, its supervisor goes on to hear of calls, deaths and its other children."""
    async with running(app(child(Inside, name="probe"), child(Inside, id="other", name="other"))) as client:
        other = await client.ref("other").call("pid")
        pid = await client.ref("probe").call("pid")
        with suppress(CallTimeout, ActorDown):
            await client.ref("probe").call(message, timeout=0.2)
        assert len((await client.tree()).children[1].children) == 2
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)
        os.kill(other, signal.SIGKILL)
        assert await answered(client) != pid
        assert await answered(client, "other") != other


# -- 3. what a server started dies with it ----------------------------------------------------------------------------------


async def test_what_a_server_started_dies_with_it(running: Running) -> None:
    """A child, one without the run's environment, a forked one and a daemon: SIGKILL of the server ends them all."""
    async with running(app()) as client:
        probe = client.ref("probe")
        started = [
            await probe.call("spawn"),
            await probe.call(("spawn", "without environment")),
            await probe.call("fork in a thread"),
            await probe.call("double fork"),
        ]
        assert not any(is_gone(pid) for pid in started)
        os.kill(await probe.call("pid"), signal.SIGKILL)
        assert await until(lambda: all(is_gone(pid) for pid in started), 2.0)


async def test_what_a_living_server_started_lives(running: Running) -> None:
    """A daemon of a living server is nobody's business, and the child of a thread that has ended goes on."""
    async with running(app()) as client:
        probe = client.ref("probe")
        started = [await probe.call("double fork"), await probe.call("fork in a thread")]
        who = await anatomy_with_orphans(client)
        os.kill(who, signal.SIGCHLD)  # have the node look at its orphans now
        await client.tree()
        assert not await until(lambda: any(is_gone(pid) for pid in started), 0.4)


async def anatomy_with_orphans(client: Client) -> int:
    """The node, which may have adopted somebody."""
    assert client.node_pid is not None
    return client.node_pid


async def test_a_process_with_a_session_of_its_own_dies_with_the_tree(running: Running) -> None:
    """It left the server's group, so it outlives the server; it cannot outlive the tree, whose node adopted it."""
    async with running(app()) as client:
        escaped = await client.ref("probe").call(("spawn", "session of its own"))
        os.kill(await client.ref("probe").call("pid"), signal.SIGKILL)
        assert await answered(client)
        assert not is_gone(escaped)
    assert is_gone(escaped)


# -- 6. crash means crash -------------------------------------------------------------------------------------------------


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


# -- 7. nothing blocks a mailbox ------------------------------------------------------------------------------------------


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


# -- what is asked of a supervisor ------------------------------------------------------------------------------------------


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
