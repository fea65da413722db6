"""Many kills and restarts in a row, and what they may not leave in the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from supervisors import Supervisor, child
from tests.anatomy import anatomy, answered, descriptors_of, until
from tests.conftest import Running
from tests.servers import Counter

__all__ = ["Outcome", "kill_many_times"]

_LONGEST = 2.0
_LETTING_GO = 2.0


@dataclass(frozen=True)
class Outcome:
    """Seconds from kill to answer, sorted; and how many descriptors supervisor and root had before and after."""

    seconds: list[float]
    before: tuple[int, int]
    after: tuple[int, int]


async def kill_many_times(running: Running, times: int) -> Outcome:
    """SIGKILL one server that many times; fails when one restart takes longer than two seconds, as a hung child would."""
    tree = Supervisor("app", (child(Counter, name="counter"), child(Counter, id="other", name="other")), max_restarts=10 * times)
    async with running(tree) as client:
        other = await client.ref("other").call("pid")
        pid = await answered(client, "counter")
        who = await anatomy(client)
        watched = (who.pid("app"), who.root)
        before = [await _at_rest(each) for each in watched]
        seconds = []
        for _ in range(times):
            start = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(_LONGEST):
                while (now := await answered(client, "counter")) == pid:
                    pass
            pid = now
            seconds.append(time.monotonic() - start)
        branch = (await client.tree()).find("counter")
        assert (branch.restarts, branch.pid) == (times, pid)
        assert await client.ref("other").call("pid") == other
        # The connections of the last dead one are let go with the next events.
        await until(lambda: [len(descriptors_of(each)) for each in watched] <= before, _LETTING_GO)
        after = [len(descriptors_of(each)) for each in watched]
    return Outcome(sorted(seconds), (before[0], before[1]), (after[0], after[1]))


async def _at_rest(pid: int) -> int:
    """The most descriptors it has during a tick: while it waits, Thespian has an epoll open, made anew for each wait."""
    most, end = 0, time.monotonic() + 0.3
    while time.monotonic() < end:
        most = max(most, len(descriptors_of(pid)))
        await asyncio.sleep(0.005)
    return most
