"""The timers of one server. Used in the server's event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

from supervisors.envelope import Entry
from supervisors.errors import BadSpec

__all__ = ["Timer", "Timers"]


class Timer:
    """A timer that `Server.send_after` started."""

    __slots__ = ("_entry", "_handle")

    def __init__(self, handle: asyncio.TimerHandle, entry: Entry) -> None:
        self._handle = handle
        self._entry = entry

    def cancel(self) -> None:
        """Nothing will come of it any more, even if it was due and waits in the mailbox. Idempotent."""
        self._handle.cancel()
        self._entry.cancelled = True


class Timers:
    """Timers that are due one after the other, in the order of their times, however coarse the loop's own clock is.

    uvloop counts milliseconds: two timers that are due within the same one may fire in either order. So whichever fires
    takes the one that was due first; each fires once, so each is taken once.
    """

    def __init__(self, put: Callable[[Entry], None]) -> None:
        self._put = put
        self._due: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()

    def start(self, seconds: float, body: Any) -> Timer:
        """Put `body` into the mailbox after that many seconds. Raises `BadSpec` for what is no time to wait."""
        if not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
            raise BadSpec("send_after", f"{seconds!r} is no number of seconds")
        entry = Entry("timer", body)
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), entry))
        return Timer(asyncio.get_running_loop().call_later(seconds, self._fire), entry)

    def _fire(self) -> None:
        while self._due:
            _, _, entry = heapq.heappop(self._due)
            if not entry.cancelled:
                self._put(entry)
                return
