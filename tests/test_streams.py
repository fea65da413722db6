"""Streams: as fast as the reader reads, in order, each item once, closed when nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from supervisors import ActorDown, CallTimeout, Overloaded, Refused, Server
from supervisors.exits import Crash
from supervisors.testing import Host
from supervisors.wire.link import STREAM_WINDOW

pytestmark = pytest.mark.timeout(30)


class Source(Server):
    """Streams numbers."""

    stream_limit = 2

    def __init__(self) -> None:
        self.made = 0
        self.closed = asyncio.Event()

    async def handle_call(self, message: Any) -> Any:
        return message

    async def handle_stream(self, message: Any) -> AsyncIterator[Any]:
        try:
            match message:
                case int(count):
                    for number in range(count):
                        self.made += 1
                        yield number
                case "stall":
                    yield 0
                    await asyncio.get_running_loop().create_future()
                case "crash":
                    yield 0
                    raise RuntimeError("boom")
                case "refuse":
                    yield 0
                    raise Refused("no more", "enough")
        finally:
            self.closed.set()


async def test_items_arrive_in_order_and_the_stream_ends() -> None:
    """All of them, once."""
    async with Host() as host:
        ref = (await host.start(Source())).ref
        assert [item async for item in ref.stream(1000)] == list(range(1000))


async def test_a_server_is_never_further_ahead_than_the_window() -> None:
    """Credit: what the reader has not taken is not made."""
    async with Host() as host:
        source = Source()
        ref = (await host.start(source)).ref
        items = ref.stream(1000)
        assert await anext(items) == 0
        await ref.ping()
        assert source.made <= STREAM_WINDOW + 2
        for _ in range(100):
            await anext(items)
        await ref.ping()
        assert source.made <= 101 + STREAM_WINDOW + 2
        await items.aclose()
        await asyncio.wait_for(source.closed.wait(), 2.0)


async def test_a_stream_does_not_hold_up_calls() -> None:
    """It runs beside the mailbox."""
    async with Host() as host:
        ref = (await host.start(Source())).ref
        items = ref.stream("stall")
        assert await anext(items) == 0
        assert await ref.call("meanwhile") == "meanwhile"
        await items.aclose()


async def test_a_stalled_stream_ends_in_a_timeout_and_is_closed() -> None:
    """The wait for each item is bounded, and the server's generator is closed."""
    async with Host() as host:
        source = Source()
        ref = (await host.start(source)).ref
        with pytest.raises(CallTimeout):
            async for _ in ref.stream("stall", timeout=0.05):
                pass
        await asyncio.wait_for(source.closed.wait(), 2.0)


async def test_how_a_stream_can_fail() -> None:
    """A refusal after some items, too many streams, an unknown one, and a crash, which is the whole server's."""
    async with Host() as host:
        hosted = await host.start(Source())
        ref = hosted.ref
        got = []
        with pytest.raises(Refused, match="no more"):
            async for item in ref.stream("refuse"):
                got.append(item)
        assert got == [0]
        two = [ref.stream("stall"), ref.stream("stall")]
        for each in two:
            await anext(each)
        with pytest.raises(Overloaded):
            await anext(ref.stream(1))
        with pytest.raises(ActorDown) as caught:
            for each in two[:1]:
                await each.aclose()
            async for _ in ref.stream("crash"):
                pass
        assert caught.value.reason == Crash("RuntimeError", "boom")
        with pytest.raises(ActorDown):
            await anext(two[1])
        assert isinstance(await hosted.ended, Crash)


async def test_a_caller_of_a_server_without_streams_is_refused() -> None:
    """Said, not crashed."""
    async with Host() as host:
        ref = (await host.start(Server())).ref
        with pytest.raises(Refused, match="does not stream"):
            await anext(ref.stream("x"))
