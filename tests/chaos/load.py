"""A steady load of calls, each accounted for: answered rightly, refused by a typed error, wrong, or without an end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from types import TracebackType
from typing import Self

from supervisors import CallFailed, Ref

__all__ = ["Load"]

_SLACK = 0.5
"""Seconds over its deadline after which a call counts as one without an end: this machine is shared."""


class Load:
    """`rate` calls per second to a `Probe`, each with a deadline of `timeout` seconds, for as long as the block lasts."""

    def __init__(self, ref: Ref, *, rate: float = 200.0, timeout: float = 1.0) -> None:
        self._ref = ref
        self._pause = 1.0 / rate
        self._timeout = timeout
        self._calls: set[asyncio.Task[None]] = set()
        self.answered = 0
        self.wrong = 0
        self.endless = 0
        self.longest = 0.0
        self.refused: Tally[str] = Tally()
        self.answered_event = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.cancel()
        await asyncio.wait([self._loop, *self._calls], timeout=self._timeout + 5.0)
        for call in self._calls:
            if not call.done():
                self.endless += 1
                call.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            number += 1
            task = loop.create_task(self._one(number))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            await asyncio.sleep(self._pause)

    async def _one(self, number: int) -> None:
        start = time.monotonic()
        try:
            answer = await self._ref.call(("echo", number), timeout=self._timeout)
        except CallFailed as error:
            self.refused[type(error).__name__] += 1
        else:
            if answer == number:
                self.answered += 1
                self.answered_event.set()
            else:
                self.wrong += 1
        taken = time.monotonic() - start
        self.longest = max(self.longest, taken)
        if taken > self._timeout + _SLACK:
            self.endless += 1

    async def next_answer(self) -> float:
        """Seconds until the next call is answered rightly."""
        start = time.monotonic()
        self.answered_event.clear()
        await self.answered_event.wait()
        return time.monotonic() - start
