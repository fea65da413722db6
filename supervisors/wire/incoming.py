"""The reader's side of one stream. Used in the event loop of its link."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["Incoming"]

_AHEAD = 4096
"""How far ahead of the next item a delayed one may be; a sender never has more credit than this."""


class Incoming:
    """The reader's side of one stream: items in the order of their numbers, each at most once.

    A lost item leaves a gap that nothing fills: the reader's wait then ends in `CallTimeout`, never with a wrong item.
    """

    __slots__ = ("_ahead", "_end", "_items", "_loop", "_next", "_waiter", "ended_by_peer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._ahead: dict[int, Any] = {}
        self._next = 0
        self._end: int | BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.ended_by_peer = False

    def accepts(self, seq: int) -> bool:
        """Whether the item of that number is still to come."""
        return self._next <= seq < self._next + _AHEAD and seq not in self._ahead

    def put(self, seq: int, item: Any) -> None:
        """An item has arrived, perhaps before others that belong before it."""
        if seq == self._next and not self._ahead:
            self._items.append(item)
            self._next += 1
        else:
            self._ahead[seq] = item
            while self._next in self._ahead:
                self._items.append(self._ahead.pop(self._next))
                self._next += 1
        self._wake()

    def end(self, how: int | BaseException) -> None:
        """The peer has ended the stream: after that many items, or with an error."""
        self.ended_by_peer = True
        self.fail(how)

    def fail(self, how: int | BaseException) -> None:
        """The stream ends here, whatever the peer still does."""
        if self._end is None:
            self._end = how
        self._wake()

    def take(self) -> tuple[bool, Any] | None:
        """The next item, (False, None) at the end, or None when it has not come yet. Raises what the stream ended with."""
        if self._items:
            return True, self._items.popleft()
        if isinstance(self._end, BaseException):
            raise self._end
        return (False, None) if self._end == self._next else None

    async def wait(self) -> None:
        """Return when `take` may have something. One reader at a time."""
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
