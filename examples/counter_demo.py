"""The floor itself, shown: a counter under a supervisor is called, killed with SIGKILL, crashed, and comes back each time.

Run it: `make demo`, or python examples/counter_demo.py. Everything it prints is measured in that run.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from supervisors import ActorDown, Client, Ref, Server, Supervisor, child, embed
from supervisors.process.procfs import children_of

CALLS = 2_000


class Counter(Server):
    """Counts. Crashes when asked to divide by nothing."""

    async def init(self, start: int = 0) -> None:
        self.value = start

    async def handle_call(self, message: object) -> int:
        match message:
            case ("add", int(amount)):
                self.value += amount
                return self.value
            case ("divide", int(by)):
                return self.value // by
            case "pid":
                return os.getpid()
        return int(await super().handle_call(message))


TREE = Supervisor("app", (child(Counter, name="counter", args=(100,)),), max_restarts=5)


def title(text: str) -> None:
    """One step of the show."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else f"\n{text}")


async def until_another(counter: Ref, old: int) -> str:
    """Call until another process answers than the old one; how that went."""
    start = time.perf_counter()
    told = ""
    while True:
        try:
            pid = await counter.call("pid")
        except ActorDown as down:
            told = told or f"the caller was told after {1000 * (time.perf_counter() - start):.1f} ms: {down}; "
        else:
            if pid != old:
                return f"{told}pid {pid} answered after {1000 * (time.perf_counter() - start):.1f} ms"


async def show(client: Client) -> None:
    counter = client.ref("counter")
    title("1. A tree is up: one process each, all under one supervisor")
    print(await client.tree())

    title("2. Calls")
    print(f"add 1 to 100: {await counter.call(('add', 1))}")
    start = time.perf_counter()
    for _ in range(CALLS):
        await counter.call(("add", 1))
    each = (time.perf_counter() - start) / CALLS
    print(f"{CALLS} calls one after the other: {1e6 * each:.0f} µs each")

    title("3. kill -9 of the counter")
    pid = await counter.call("pid")
    os.kill(pid, signal.SIGKILL)
    print(await until_another(counter, pid))

    title("4. A crash in a handler: the caller gets the reason, the supervisor's log the traceback")
    try:
        await counter.call(("divide", 0))
    except ActorDown as down:
        print(f"{type(down).__name__}: {down}")
    print(f"and it counts from its start again: {await counter.call(('add', 1))}")

    title("5. kill -9 of Thespian's admin: the whole tree dies with it, and a fresh one is booted")
    assert client.node_pid is not None
    [admin] = children_of(client.node_pid)
    pid = await counter.call("pid")
    os.kill(admin, signal.SIGKILL)
    print(await until_another(counter, pid))

    title("6. The tree now")
    print(await client.tree())


async def main() -> None:
    log = Path("counter_demo.log")
    log.unlink(missing_ok=True)
    start = time.perf_counter()
    async with embed(TREE, log=log, log_level="info") as client:
        print(f"booted in {time.perf_counter() - start:.2f} s, node {client.node_pid}, sockets in {client.directory}")
        await show(client)
        node = client.node_pid
        start = time.perf_counter()
    title("7. Stopped, in order")
    left = [pid for pid in (node,) if pid is not None and Path(f"/proc/{pid}").exists()]
    print(f"in {1000 * (time.perf_counter() - start):.0f} ms; processes left: {len(left)}; what happened is in {log}")


if __name__ == "__main__":
    asyncio.run(main())
