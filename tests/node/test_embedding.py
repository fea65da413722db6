"""What the host of an embedded node is told, what it must not do, and whom the sockets let in."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisors import StartFailed, Supervisor, child, embed
from supervisors.errors import NodeError
from supervisors.exits import Crash
from supervisors.wire.peer import peer_is_trusted
from tests.anatomy import anatomy, answered, descriptors_of, is_gone, run_script, until
from tests.conftest import Running
from tests.servers import Probe

TREE = Supervisor("app", (child(Probe, name="probe"),), max_restarts=100)
NOBODY = 65534
_CONNECT = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.recv(1)
"""


async def test_a_thread_started_by_an_import_reaches_the_caller(running: Running) -> None:
    """A module that starts a thread keeps the node from booting: `embed` says which thread, in one sentence."""
    with pytest.raises(StartFailed) as caught:
        async with running(TREE, preload=("tests.node.threaded",)):
            pass
    reason = caught.value.reason
    assert isinstance(reason, Crash)
    assert reason.error == "ForkRefused"
    assert "(MainThread, the culprit)" in reason.message
    assert "\n" not in str(caught.value)


async def test_a_thread_in_the_admin_reaches_the_caller(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that starts a thread after every fork gives Thespian's admin one, which forks the root: no boot, and why."""
    accident = tmp_path / "accident"
    accident.write_text("admin THREAD 100")
    monkeypatch.setenv("TEST_ACCIDENT", str(accident))
    with pytest.raises(StartFailed, match=r"admin \d+ has more than one thread, so it may not fork; a module"):
        async with running(TREE, preload=("tests.node.accidents",)):
            pass


async def test_a_module_that_does_not_import_reaches_the_caller(running: Running) -> None:
    """So does what an import raises."""
    with pytest.raises(StartFailed, match=r"tests\.node\.broken does not import: RuntimeError: broken on purpose"):
        async with running(TREE, preload=("tests.node.broken",)):
            pass


async def test_numpy_may_be_preloaded(running: Running) -> None:
    """A library that brings native threads of its own, as numpy does, does not keep a node from booting."""
    pytest.importorskip("numpy")
    async with running(TREE, preload=("numpy",)) as client:
        assert await client.ref("probe").call("thread names") == ["MainThread", "loop of local/app/probe"]


async def test_a_base_directory_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused where `embed` is called, before anything is started."""
    longest = Path(tempfile.mkdtemp(prefix="x" * 80, dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(longest))
    try:
        with pytest.raises(NodeError, match="set XDG_RUNTIME_DIR to a shorter directory"):
            embed(TREE)
        assert list(longest.iterdir()) == []
    finally:
        longest.rmdir()


async def test_nodes_gather_no_descriptors(running: Running) -> None:
    """After four fresh trees the node has as many descriptors open as after the first."""
    async with running(TREE) as client:
        await client.ref("probe").call("pid")
        before = await anatomy(client)
        open_before = sorted(descriptors_of(before.node).values())
        who = before
        for _ in range(4):
            os.kill(who.admin, 9)
            root = who.root
            assert await until(lambda root=root: is_gone(root))  # type: ignore[misc]
            await answered(client)
            who = await anatomy(client)
        assert who.node == before.node
        assert len(descriptors_of(who.node)) == len(open_before)


def test_a_client_is_not_used_after_a_fork() -> None:
    """A client that was inherited refuses every use in one clear sentence, in its form with and without await."""
    lines = run_script("""
        import asyncio, os, sys
        from supervisors import embed, sync
        from supervisors.errors import ClientForked
        from tests.node.trees import TREE

        def in_child(use):
            sys.stdout.flush()
            if os.fork() == 0:
                try:
                    use()
                except ClientForked as error:
                    print(error, flush=True)
                os._exit(0)
            os.wait()

        async def main():
            async with embed(TREE, log=os.devnull) as client:
                probe = client.ref("probe")
                await probe.call("pid")
                def call():
                    try:
                        probe.call("pid").send(None)
                    except StopIteration:
                        print("answered", flush=True)
                in_child(call)
                in_child(lambda: client.ref("probe"))
                await probe.call("pid")

        asyncio.run(main())
        with sync.embed(TREE, log=os.devnull) as client:
            probe = client.ref("probe")
            in_child(lambda: probe.call("pid"))
            in_child(lambda: client.tree())
            probe.call("pid")
    """)
    assert len(lines) == 4
    for line in lines:
        assert "forked from it: open a client of its own in each process, after the fork" in line


@contextmanager
def connected_as(user: int) -> Iterator[socket.socket]:
    """The server's end of a connection that a process of that user has made."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    path = directory / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()
        listener.settimeout(5.0)
        command = [sys.executable, "-c", _CONNECT, str(path), str(user)]
        child_pid = os.posix_spawn(sys.executable, command, os.environ)
        try:
            server, _ = listener.accept()
            with server:
                yield server
        finally:
            os.waitpid(child_pid, 0)
            path.unlink()
            directory.rmdir()


def test_a_peer_of_the_same_user_is_trusted() -> None:
    """The kernel says who is at the other end."""
    with connected_as(os.geteuid()) as server:
        assert peer_is_trusted(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_peer_of_another_user_is_not_trusted() -> None:
    """So it does when that is somebody else."""
    with connected_as(NOBODY) as server:
        assert not peer_is_trusted(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_every_socket_of_a_node_turns_others_away(running: Running, runtime: Path) -> None:
    """Were its directory open by mistake, another user would still get no answer from server, registry or root."""
    async with running(TREE) as client:
        await client.ref("probe").call("pid")
        directory = client.directory
        for each in (runtime, directory):
            each.chmod(0o755)
        sockets = [each for each in directory.iterdir() if each.is_socket()]
        for each in sockets:
            each.chmod(0o777)
        code = """
            import os, socket, sys
            os.setuid(65534)
            for path in sys.argv[1:]:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(2.0)
                    sock.connect(path)
                    try:
                        print(sock.recv(1))
                    except ConnectionResetError:
                        print(b"")
        """
        assert len(sockets) == 4
        lines = run_script(code, arguments=[str(each) for each in sockets])
        assert lines == ["b''"] * 4
        directory.chmod(0o700)
        assert await client.ref("probe").call(("echo", "still there")) == "still there"
