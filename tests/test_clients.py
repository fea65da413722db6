"""The client: embed and attach, names, what it rides out and what it refuses. With real nodes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from supervisors import (
    ActorDown,
    BadSpec,
    CallFailed,
    NodeDown,
    NotRegistered,
    StartFailed,
    Supervisor,
    attach,
    child,
    embed,
    sync,
)
from supervisors.errors import ClientClosed, ClientForked
from supervisors.exits import Killed, NoProcess, Normal, Shutdown
from supervisors.process.procfs import children_of
from tests.conftest import Running, wait_for
from tests.servers import Counter, Probe

pytestmark = pytest.mark.timeout(60)

TREE = Supervisor(
    "app",
    (
        child(Counter, name="counter", args=(10,)),
        child(Probe, name="probe"),
        child(Probe, id="once", name="once", restart="temporary"),
    ),
    max_restarts=100,
)


async def test_names_are_looked_up_and_close_ones_are_offered(running: Running) -> None:
    """`names` lists them all, the registry's own among them; a wrong one is said, with what was meant."""
    async with running(TREE) as client:
        names = await client.names()
        assert set(names) == {"registry", "counter", "probe", "once"}
        assert names["counter"].place == "local/app/counter"
        with pytest.raises(NotRegistered, match="did you mean 'counter'") as caught:
            await client.ref("countr").call("get", timeout=20.0)
        assert caught.value.known == ("counter",)


async def test_names_survive_the_registrys_own_restart(running: Running) -> None:
    """Links go on undisturbed; look-ups wait for the registry and for the names to come back."""
    async with running(TREE) as client:
        counter = client.ref("counter")
        assert await counter.call(("add", 1)) == 11
        os.kill((await client.names())["registry"].pid, signal.SIGKILL)
        assert await counter.call(("add", 1)) == 12
        assert await client.ref("probe").call(("echo", 1)) == 1
        assert set(await client.names()) >= {"counter"}


async def test_two_servers_cannot_have_one_name(node_log: Path) -> None:
    """The second does not start; the error names the name and its holder."""
    tree = Supervisor("app", (child(Counter, id="a", name="same"), child(Counter, id="b", name="same")))
    with pytest.raises(StartFailed, match="'same' is taken by local/app/a"):
        async with embed(tree, log=node_log):
            pass


async def test_an_ended_name_is_gone_at_once_and_a_dead_one_is_waited_for(running: Running) -> None:
    """A temporary server that stops: `NotRegistered`; a permanent one that is killed: the next call finds the fresh one."""
    async with running(TREE) as client:
        once = client.ref("once")
        assert await once.call(("stop", Normal())) == "stopping"
        start = time.monotonic()
        with pytest.raises((NotRegistered, ActorDown)):
            await once.call("pid")
        with pytest.raises(NotRegistered):
            await once.call("pid")
        assert time.monotonic() - start < 2.0


async def test_a_monitor_tells_exactly_once_and_why(running: Running) -> None:
    """A kill, an orderly stop, and a name that nobody has."""
    async with running(TREE) as client:
        counter, once = client.ref("counter"), client.ref("once")
        watching = [asyncio.ensure_future(counter.monitor()) for _ in range(3)]
        ending = asyncio.ensure_future(once.monitor())
        pid = await counter.call("pid")
        await once.call("pid")
        await client.tree()
        os.kill(pid, signal.SIGKILL)
        assert [(await each).reason for each in watching] == [Killed(9)] * 3
        await once.call(("stop", Shutdown("done")))
        assert (await ending).reason == Shutdown("done")
        assert (await client.ref("nobody").monitor()).reason == NoProcess()


async def test_calls_ride_out_the_death_of_the_whole_tree(running: Running) -> None:
    """Each call under way is refused by its deadline; those that follow are answered by the fresh tree."""
    async with running(TREE) as client:
        counter = client.ref("counter")
        old = await counter.call("pid")
        assert client.node_pid is not None
        [admin] = children_of(client.node_pid)
        os.kill(admin, signal.SIGKILL)
        pid = old
        deadline = time.monotonic() + 5.0
        while pid == old and time.monotonic() < deadline:
            try:
                pid = await counter.call("pid", timeout=2.0)
            except CallFailed:
                continue
        assert pid != old
        assert children_of(client.node_pid) != [admin]


async def test_attach_by_name_and_by_directory(running: Running, runtime: Path) -> None:
    """Both reach the same tree as its owner does; a node that does not run is said, with what to do."""
    async with running(TREE, name="shop") as owner, attach(owner.directory) as visitor:
        assert await visitor.ref("counter").call(("add", 5)) == 15
        assert await owner.ref("counter").call("get") == 15
        assert (await visitor.names())["counter"] == (await owner.names())["counter"]
    with pytest.raises(NodeDown, match=r"no node runs as 'nowhere'.*--name nowhere"):
        async with attach("nowhere"):
            pass


async def test_a_client_refuses_before_and_after(running: Running) -> None:
    """One clear sentence before it is opened, after it is closed, and when it is opened again."""
    client = embed(TREE)
    with pytest.raises(ClientClosed, match="async with"):
        client.ref("counter")
    async with running(TREE) as client:
        counter = client.ref("counter")
        await counter.call("get")
    with pytest.raises(ClientClosed):
        await counter.call("get")
    with pytest.raises(ClientClosed):
        async with client:
            pass


async def test_closing_answers_those_who_wait(running: Running) -> None:
    """A call under way when its client is closed ends with an error, not never."""
    async with running(TREE) as client:
        probe = client.ref("probe")
        await probe.call("pid")
        waiting = asyncio.ensure_future(probe.call(("sleep", 30), timeout=60.0))
        await probe.ping()
        await client.close()
        with pytest.raises((ClientClosed, ActorDown)):
            await waiting


async def test_a_client_refuses_after_a_fork(running: Running, tmp_path: Path) -> None:
    """In the child the first use says so, in one sentence; the parent's client goes on."""
    async with running(TREE) as client:
        counter = client.ref("counter")
        await counter.call("get")
        said = tmp_path / "said"
        pid = os.fork()
        if pid == 0:
            try:
                coroutine = counter.call("get")
                coroutine.send(None)
            except ClientForked as error:
                said.write_text(str(error))
            except BaseException as error:  # noqa: BLE001 - told to the parent
                said.write_text(repr(error))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert "open a client of its own in each process, after the fork" in said.read_text()
        assert await counter.call("get") == 10


async def test_the_synchronous_form_inside_a_running_loop(running: Running) -> None:
    """A notebook's cell: a loop runs, and a plain call works; so it does from other threads."""
    async with running(TREE) as client:
        with sync.attach(client.directory) as plain:
            counter = plain.ref("counter")
            assert counter.call(("add", 1)) == 11
            counter.cast(("add", 1))
            assert counter.call("get") == 12
            assert list(plain.ref("probe").stream(("count", 3))) == [0, 1, 2]
            assert "counter" in str(plain.tree())
            results: list[int] = []
            threads = [threading.Thread(target=lambda: results.append(counter.call(("add", 1)))) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert sorted(results) == list(range(13, 21))
        with pytest.raises(ClientClosed):
            counter.call("get")


def run_script(directory: Path, text: str, *, stdin: bool = False) -> tuple[int, str]:
    """Run a script of the user's, its output into a file."""
    script = directory / "script.py"
    script.write_text(text)
    output = directory / "output"
    with output.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-" if stdin else str(script)],
            input=text.encode() if stdin else None,
            stdin=None if stdin else subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=directory,
            check=False,
            timeout=50,
        )
    return done.returncode, output.read_text()


SCRIPT = """
import asyncio
from dataclasses import dataclass
from supervisors import Server, child, embed, wire_type

@wire_type
@dataclass
class Order:
    number: int

class Shop(Server):
    async def handle_call(self, message):
        return Order(message.number + 1)

async def main():
    async with embed(child(Shop, name="shop"), log="node.log") as client:
        print(await client.ref("shop").call(Order(1)))
"""


def test_a_script_may_hold_its_own_servers_and_classes(tmp_path: Path) -> None:
    """What is defined in `__main__` is found by the node, and its registered classes travel both ways."""
    status, output = run_script(tmp_path, SCRIPT + '\nif __name__ == "__main__":\n    asyncio.run(main())\n')
    assert (status, output) == (0, "Order(number=2)\n")


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """One clear sentence instead of nodes that start nodes."""
    status, output = run_script(tmp_path, SCRIPT + "\nasyncio.run(main())\n")
    assert status == 1
    assert "if __name__ == '__main__'" in output


def test_a_class_typed_in_is_told_so(tmp_path: Path) -> None:
    """There is no file from which another process could import it."""
    status, output = run_script(tmp_path, SCRIPT + "\nasyncio.run(main())\n", stdin=True)
    assert status == 1
    assert "interactive session" in output


async def test_a_tree_that_cannot_start_says_why(node_log: Path) -> None:
    """The reason of the innermost failure reaches the caller of `embed`."""
    tree = Supervisor("app", (child(Counter, args=("a", "b")),))
    with pytest.raises(StartFailed, match=r"counter.*takes from 1 to 2 positional arguments"):
        async with embed(tree, log=node_log):
            pass
    with pytest.raises(BadSpec):
        child(Counter, restart="sometimes")


async def test_stopping_the_node_ends_it_for_good(running: Running) -> None:
    """It is not booted again; the next call says that it was told to stop."""
    async with running(TREE) as client:
        counter = client.ref("counter")
        await counter.call("get")
        pid = client.node_pid
        await client.stop_node()
        assert pid is not None
        assert wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
        with pytest.raises((NodeDown, CallFailed)):
            await counter.call("get", timeout=1.0)
