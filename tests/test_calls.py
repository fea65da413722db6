"""Calls, casts, infos, timers: what a server and its callers see of each other. In the test's own loop, over real links."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from supervisors import ActorDown, CallTimeout, NotRegistered, Overloaded, Refused, Server, UnsupportedValue
from supervisors.exits import Crash, ExitReason, Killed, Normal, Shutdown
from supervisors.testing import Host

pytestmark = pytest.mark.timeout(30)


class Recorder(Server):
    """Keeps what it was told, in order, and waits where a test wants it to."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.ended: list[ExitReason] = []

    async def handle_call(self, message: Any) -> Any:
        self.seen.append(("call", message))
        match message:
            case "wait":
                self.entered.set()
                await self.gate.wait()
            case "crash":
                raise RuntimeError("boom")
            case "exit":
                raise SystemExit(3)
            case "refuse":
                raise SoldOut("sold out", "sold_out", {"left": 0})
            case "lock":
                return asyncio.Lock()
            case "context":
                return tuple(self.context)
            case "stop":
                self.stop()
        return message

    async def handle_cast(self, message: Any) -> None:
        self.seen.append(("cast", message))
        if message == "crash":
            raise RuntimeError("boom")
        if message == "wait":
            self.entered.set()
            await self.gate.wait()

    async def handle_info(self, message: Any) -> None:
        self.seen.append(("info", message))

    async def handle_timer(self, message: Any) -> None:
        self.seen.append(("timer", message))
        if message == "last":
            self.gate.set()

    async def terminate(self, reason: ExitReason) -> None:
        self.ended.append(reason)


class SoldOut(Refused):
    """A user's own refusal."""


class Wide(Recorder):
    """Three at once."""

    concurrency = 3


class Narrow(Recorder):
    """Two may wait."""

    mailbox_limit = 2


class Obliging(Recorder):
    """Leaves off when its caller has gone."""

    cancel_running = True


async def test_messages_of_one_caller_are_handled_in_order() -> None:
    """Casts and calls of one sender arrive in the order in which they were sent, one at a time."""
    async with Host() as host:
        server = Recorder()
        ref = (await host.start(server)).ref
        for number in range(5):
            await ref.cast(number)
        assert await ref.call("last") == "last"
        assert server.seen == [*(("cast", number) for number in range(5)), ("call", "last")]


async def test_one_message_at_a_time() -> None:
    """While a handler waits, no other handler runs; with `concurrency`, so many do."""
    for server, at_once in ((Recorder(), 1), (Wide(), 3)):
        async with Host() as host:
            ref = (await host.start(server)).ref
            calls = [asyncio.ensure_future(ref.call("wait")) for _ in range(5)]
            await server.entered.wait()
            await ref.ping()
            assert len(server.seen) == at_once
            assert (await ref.statistics()).waiting == 5 - at_once
            server.gate.set()
            assert await asyncio.gather(*calls) == ["wait"] * 5


async def test_a_call_ends_at_its_deadline_and_what_waited_never_starts() -> None:
    """`CallTimeout` for the caller; the message that was still waiting is never handled."""
    async with Host() as host:
        server = Recorder()
        ref = (await host.start(server)).ref
        waiting = asyncio.ensure_future(ref.call("wait"))
        await server.entered.wait()
        start = time.monotonic()
        with pytest.raises(CallTimeout, match=r"did not answer within 0\.05 s"):
            await ref.call("too late", timeout=0.05)
        assert time.monotonic() - start < 1.0
        server.gate.set()
        await waiting
        assert await ref.call("next") == "next"
        assert ("call", "too late") not in server.seen


async def test_a_late_reply_is_counted_and_given_to_nobody() -> None:
    """The caller has gone; the next call gets its own answer."""
    async with Host() as host:
        server = Recorder()
        ref = (await host.start(server)).ref
        with pytest.raises(CallTimeout):
            await ref.call("wait", timeout=0.05)
        server.gate.set()
        assert await ref.call("mine") == "mine"


async def test_a_caller_that_gives_up_cancels() -> None:
    """What waits is dropped; what runs is left alone, unless the class says otherwise."""
    async with Host() as host:
        obliging = Obliging()
        ref = (await host.start(obliging)).ref
        running = asyncio.ensure_future(ref.call("wait"))
        await obliging.entered.wait()
        waiting = asyncio.ensure_future(ref.call("never"))
        await ref.ping()
        waiting.cancel()
        running.cancel()
        assert await ref.call("next", timeout=2.0) == "next"
        assert ("call", "never") not in obliging.seen
        assert (await ref.statistics()).cancelled == 2


async def test_a_full_mailbox_says_so() -> None:
    """`Overloaded`, at once, and the message is never executed."""
    async with Host() as host:
        server = Narrow()
        ref = (await host.start(server)).ref
        first = asyncio.ensure_future(ref.call("wait"))
        await server.entered.wait()
        two = [asyncio.ensure_future(ref.call(number)) for number in range(2)]
        await ref.ping()
        with pytest.raises(Overloaded, match="2 messages"):
            await ref.call("too much")
        server.gate.set()
        await asyncio.gather(first, *two)
        assert ("call", "too much") not in server.seen
        assert (await ref.statistics()).overloaded == 1


async def test_a_crash_answers_everybody_and_runs_once() -> None:
    """The caller, the waiting and the running get `ActorDown` without a traceback; `terminate` gets the whole reason."""
    async with Host() as host:
        server = Wide()
        hosted = await host.start(server)
        ref = hosted.ref
        others = [asyncio.ensure_future(ref.call("wait")) for _ in range(2)]
        await server.entered.wait()
        crashing = asyncio.ensure_future(ref.call("crash"))
        queued = [asyncio.ensure_future(ref.call(number)) for number in range(3)]
        for each in (crashing, *others, *queued):
            with pytest.raises(ActorDown) as caught:
                await each
            assert caught.value.reason == Crash("RuntimeError", "boom")
        reason = await hosted.ended
        assert isinstance(reason, Crash)
        assert "raise RuntimeError" in reason.traceback
        assert server.ended == [reason]
        assert server.seen.count(("call", "crash")) == 1


async def test_a_cast_can_crash_and_so_can_an_exit() -> None:
    """There is nobody to tell but the supervisor; SystemExit in a handler is a crash like any other."""
    for how, error in (("cast", "RuntimeError"), ("call", "SystemExit")):
        async with Host() as host:
            hosted = await host.start(Recorder())
            if how == "cast":
                await hosted.ref.cast("crash")
            else:
                with pytest.raises(ActorDown):
                    await hosted.ref.call("exit")
            reason = await hosted.ended
            assert isinstance(reason, Crash)
            assert reason.error == error


async def test_a_refusal_and_a_reply_that_cannot_travel_are_no_crash() -> None:
    """A user's subclass of `Refused` arrives as `Refused`; the caller of an unsendable reply is told which value."""
    async with Host() as host:
        ref = (await host.start(Recorder())).ref
        with pytest.raises(Refused, match="sold out") as caught:
            await ref.call("refuse")
        assert (caught.value.code, caught.value.details) == ("sold_out", {"left": 0})
        with pytest.raises(UnsupportedValue, match="Lock"):
            await ref.call("lock")
        with pytest.raises(UnsupportedValue, match=r"message\['x'\]"):
            await ref.call({"x": object()})
        assert await ref.call("alive") == "alive"


async def test_contexts_travel_and_deadlines_shrink() -> None:
    """Deadline, correlation id and trace context of a call are the handler's, and are handed on to calls it makes."""

    class Outer(Server):
        async def handle_call(self, message: Any) -> Any:
            return await self.ref("inner").call("context", timeout=60.0)

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Host() as host:
        await host.start(Recorder(), "inner")
        outer = (await host.start(Outer(), "outer")).ref
        start = time.monotonic()
        deadline, correlation, seen = await outer.call("go", timeout=2.0, correlation="order-7", trace=trace)
        assert start + 1.9 < deadline < start + 2.1
        assert (correlation, seen) == ("order-7", trace)


async def test_timers_fire_in_order_and_can_be_cancelled() -> None:
    """In the order of their times, not of their making; a cancelled one never."""
    async with Host() as host:
        server = Recorder()
        await host.start(server)
        server.send_after(0.03, "last")
        server.send_after(0.01, "first")
        dead = server.send_after(0.02, "dead")
        dead.cancel()
        await server.gate.wait()
        assert server.seen == [("timer", "first"), ("timer", "last")]


async def test_messages_to_oneself_come_from_any_thread() -> None:
    """`post` puts an info into the mailbox."""
    async with Host() as host:
        server = Recorder()
        ref = (await host.start(server)).ref
        await asyncio.to_thread(server.post, "from a thread")
        await ref.call("sync")
        assert ("info", "from a thread") in server.seen


async def test_a_stop_lets_run_what_runs_and_answers_the_rest() -> None:
    """The running call gets its reply, the waiting one `ActorDown(Shutdown)`; then `terminate`."""
    async with Host() as host:
        server = Recorder()
        hosted = await host.start(server)
        running = asyncio.ensure_future(hosted.ref.call("wait"))
        await server.entered.wait()
        waiting = asyncio.ensure_future(hosted.ref.call("never"))
        await hosted.ref.ping()
        stopping = asyncio.ensure_future(hosted.stop(Shutdown("enough")))
        with pytest.raises(ActorDown) as caught:
            await waiting
        assert caught.value.reason == Shutdown("enough")
        server.gate.set()
        assert await running == "wait"
        assert await stopping == Shutdown("enough")
        assert server.ended == [Shutdown("enough")]


async def test_a_server_can_stop_itself() -> None:
    """`Normal`, after the message that is being handled has been answered."""
    async with Host() as host:
        hosted = await host.start(Recorder())
        assert await hosted.ref.call("stop") == "stop"
        assert await hosted.ended == Normal()


async def test_a_call_after_a_crash_goes_to_the_next_process() -> None:
    """What the dying server did not accept is sent to the one that takes its name over; nobody sees a failure."""
    async with Host() as host:
        hosted = await host.start(Recorder(), "name")
        ref = hosted.ref
        with pytest.raises(ActorDown):
            await ref.call("crash")
        fresh = Recorder()
        await host.start(fresh, "name")
        assert await ref.call("again") == "again"
        assert fresh.seen == [("call", "again")]


async def test_a_killed_server_is_told_as_killed() -> None:
    """No word from it: the reason comes from whoever knows."""
    async with Host() as host:
        server = Recorder()
        hosted = await host.start(server)
        call = asyncio.ensure_future(hosted.ref.call("wait"))
        await server.entered.wait()
        hosted.kill()
        with pytest.raises(ActorDown) as caught:
            await call
        assert caught.value.reason == Killed(9)
        assert server.ended == []


async def test_an_unknown_name_is_said_at_once() -> None:
    """`NotRegistered`, long before the deadline."""
    async with Host() as host:
        start = time.monotonic()
        with pytest.raises(NotRegistered, match="'nobody'"):
            await host.ref("nobody").call("x", timeout=20.0)
        assert time.monotonic() - start < 5.0


async def test_init_that_raises_is_no_server() -> None:
    """The error is the starter's; nothing listens."""

    class Broken(Server):
        async def init(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError(args, kwargs)

    async with Host() as host:
        with pytest.raises(ValueError, match="1"):
            await host.start(Broken(), "broken", 1, colour="red")


async def test_terminate_is_bounded_and_may_raise() -> None:
    """It ends in any case, for the reason that it had."""

    class Slow(Server):
        async def terminate(self, reason: ExitReason) -> None:
            await asyncio.get_running_loop().create_future()

    class Bad(Server):
        async def terminate(self, reason: ExitReason) -> None:
            raise RuntimeError("in terminate")

    async with Host() as host:
        for server in (Slow(), Bad()):
            hosted = await host.start(server, terminate_timeout=0.05)
            assert await hosted.stop(Shutdown("x")) == Shutdown("x")
