"""The links of one event loop: one to each socket, shared by all callers there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from supervisors.errors import CallTimeout
from supervisors.wire.link import Link, LinkLost
from supervisors.wire.peer import LinkStatistics

__all__ = ["Links", "NobodyListens"]

FLUSH_TIMEOUT = 1.0
"""Seconds that what was written last has to leave when everything is closed."""


class NobodyListens(LinkLost):
    """There is no process behind the socket: it has ended, or has not begun to listen."""


class Links:
    """Opens a link when it is first asked for, forgets it when it ends. `on_lost` is called with each that has ended."""

    def __init__(self, on_lost: Callable[[Link], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._by_path: dict[str, Link] = {}
        self._living: set[Link] = set()
        self._opening: dict[str, asyncio.Task[Link]] = {}
        self._past = LinkStatistics()
        self._closed = False

    async def get(self, path: str, target: str, timeout: float, deadline: float) -> Link:
        """The link to a socket. Raises `NobodyListens`, `LinkLost` when it cannot be had now, `CallTimeout`."""
        link = self._by_path.get(path)
        if link is not None and not link.closed:
            return link
        if self._closed:
            raise LinkLost
        opening = self._opening.get(path)
        if opening is None:
            opening = self._opening[path] = self._loop.create_task(self._open(path, target))
            opening.add_done_callback(lambda task: self._opened(path, task))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(opening)
        except TimeoutError:
            raise CallTimeout(target, timeout) from None
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NobodyListens(str(error)) from None
        except OSError as error:
            raise LinkLost(str(error)) from None
        except asyncio.CancelledError:
            if opening.cancelled():  # by `close`, not this caller
                raise LinkLost from None
            raise

    async def _open(self, path: str, target: str) -> Link:
        link = await Link.open(path, target, self._lost)
        self._living.add(link)
        if self._closed:
            link.abort()
        if link.closed:
            raise LinkLost
        self._by_path[path] = link
        return link

    def _opened(self, path: str, task: asyncio.Task[Link]) -> None:
        del self._opening[path]
        if not task.cancelled():
            task.exception()  # every waiter has it; a task without waiters is none of anybody's business

    def _lost(self, link: Link) -> None:
        self._living.discard(link)
        self._past += replace(link.statistics(), links=0, pending=0)
        for path in [path for path, each in self._by_path.items() if each is link]:
            del self._by_path[path]
        self._on_lost(link)

    def statistics(self) -> LinkStatistics:
        """The sum over all links, the ended ones included."""
        return sum((link.statistics() for link in self._living), self._past)

    async def close(self) -> None:
        """End every link: whatever waits gets `LinkLost`, what was written still leaves, within a bound."""
        self._closed = True
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        links = list(self._living)
        for link in links:
            link.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                for link in links:
                    await link.wait_closed()
        for link in links:
            link.abort()
        await asyncio.gather(*opening, return_exceptions=True)
        for link in links:
            await link.wait_closed()
