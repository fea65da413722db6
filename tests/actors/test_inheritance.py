"""Law 3 and 5: what dies with a server, and what it has of its relatives after a fork."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from supervisors import ActorDown, CallTimeout, child
from supervisors.process.cgroup import ControlGroup
from tests.actors.servers import Inside
from tests.actors.trees import app
from tests.anatomy import anatomy, answered, descriptors_of, is_gone, until
from tests.conftest import Running


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


async def test_what_a_server_started_dies_with_it(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child, one without the run's environment, a forked one and a daemon die with it, without any control group."""
    monkeypatch.setenv("TEST_NO_CGROUP", "1")
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
        os.kill((await anatomy(client)).node, signal.SIGCHLD)  # have the node look at its orphans now
        assert not await until(lambda: any(is_gone(pid) for pid in started), 0.4)


async def test_whatever_a_server_started_dies_with_it_in_a_control_group(running: Running) -> None:
    """Where the node may make control groups, a process with a session of its own dies with its server as well."""
    if (group := ControlGroup.make("probe")) is None:
        pytest.skip("no control group is handed to this user")
    group.remove()
    async with running(app()) as client:
        pid = await client.ref("probe").call("pid")
        assert await until(lambda: "/dspex-" in Path(f"/proc/{pid}/cgroup").read_text(), 1.0)
        escaped = await client.ref("probe").call(("spawn", "session of its own"))
        os.kill(pid, signal.SIGKILL)
        assert await until(lambda: is_gone(escaped), 1.0)
        pid = await answered(client)
        groups = group.path.parent
        # A server joins its group while it begins, so it may answer before it is there.
        assert await until(lambda: any((path / str(pid)).exists() for path in groups.glob("dspex-*")), 1.0)
        [own] = [path for path in groups.glob("dspex-*") if (path / str(pid)).exists()]
        assert await until(lambda: len([path for path in own.iterdir() if path.is_dir()]) == 2, 1.0)  # probe and registry
    assert not own.exists()


async def test_a_process_with_a_session_of_its_own_dies_with_the_tree(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it outlives the server, whose process group it left; it cannot outlive the tree, whose node adopted it."""
    monkeypatch.setenv("TEST_NO_CGROUP", "1")
    async with running(app()) as client:
        escaped = await client.ref("probe").call(("spawn", "session of its own"))
        os.kill(await client.ref("probe").call("pid"), signal.SIGKILL)
        assert await answered(client)
        assert not is_gone(escaped)
    assert is_gone(escaped)
