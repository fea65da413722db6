"""The reader's side of one stream. Used in the event loop of its link."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["Incoming"]

_WINDOW = 4096
"""How far ahead of the next item a delayed one may be; a sender never has more credit than this."""


class Incoming:
    """The reader's side of one stream: items in the order of their numbers, each at most once."""

    __slots__ = ("_ahead", "_end", "_items", "_loop", "_next", "_waiter", "finished")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._ahead: dict[int, Any] = {}
        self._next = 0
        self._end: int | BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.finished = False

    def accepts(self, seq: int) -> bool:
        return self._next <= seq < self._next + _WINDOW and seq not in self._ahead

    def put(self, seq: int, item: Any) -> None:
        self._ahead[seq] = item
        while self._next in self._ahead:
            self._items.append(self._ahead.pop(self._next))
            self._next += 1
        self._wake()

    def end(self, how: int | BaseException) -> None:
        """The stream ended: after that many items, or with an error."""
        self.finished = True
        if self._end is None:
            self._end = how
        self._wake()

    async def take(self) -> tuple[bool, Any]:
        """The next item, or (False, None) at the end. Raises what the stream ended with."""
        while not self._items:
            if isinstance(self._end, BaseException):
                raise self._end
            if self._end == self._next:  # with fewer items than it had, one was lost: the wait ends in CallTimeout
                return False, None
            self._waiter = self._loop.create_future()
            await self._waiter
        return True, self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
