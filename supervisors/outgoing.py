"""The server's side of its streams: each runs beside the mailbox, as a task of its own, as fast as its reader takes it.

Used in the server's event loop, by the mailbox.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supervisors.envelope import Credit, Entry, Sink, current_context
from supervisors.errors import Overloaded, Refused, WireError

if TYPE_CHECKING:
    from supervisors.server import Server

__all__ = ["Outgoing"]


class Outgoing:
    """All open streams of one server. `on_crash` is called, in the stream's task, with what a handler raised."""

    def __init__(self, server: Server, place: str, on_crash: Callable[[BaseException], None]) -> None:
        self._server = server
        self._place = place
        self._on_crash = on_crash
        self._open: dict[tuple[int, int], Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.handled = self.refused = self.overloaded = self.cancelled = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What still runs, the closing of ended streams included."""
        return list(self._tasks)

    def open(self, entry: Entry, credit: int) -> None:
        """Begin one; the reader takes `credit` items for now."""
        if len(self._open) >= self._server.stream_limit:
            self.overloaded += 1
            entry.answer(Overloaded(self._place, self._server.stream_limit))
            return
        entry.credit = Credit(credit)
        self._open[id(entry.sink), entry.id] = entry
        entry.task = asyncio.get_running_loop().create_task(self._run(entry))
        self._tasks.add(entry.task)
        entry.task.add_done_callback(self._tasks.discard)

    def grant(self, sink: Sink, id_: int, total: int) -> None:
        """The reader takes that many items in all. A stream that is not there any more needs none."""
        entry = self._open.get((id(sink), id_))
        if entry is not None and entry.credit is not None:
            entry.credit.grant(total)

    def cancel(self, sink: Sink, id_: int) -> bool:
        """The reader has gone: its generator is closed. False when there is no such stream."""
        entry = self._open.pop((id(sink), id_), None)
        if entry is None:
            return False
        self._close(entry)
        return True

    def closed(self, sink: Sink) -> None:
        """All readers of that connection have gone."""
        for entry in [each for each in self._open.values() if each.sink is sink]:
            self.cancel(sink, entry.id)

    def end_all(self, error: BaseException) -> None:
        """The server ends: tell every reader, close every generator."""
        for entry in self._open.values():
            entry.answer(error)
        self.abandon()

    def abandon(self) -> None:
        """Close every generator; nobody is told."""
        entries = list(self._open.values())
        self._open.clear()
        for entry in entries:
            self._close(entry)

    def _close(self, entry: Entry) -> None:
        entry.cancelled = True
        if entry.task is not None and entry.task is not asyncio.current_task():
            entry.task.cancel()

    async def _run(self, entry: Entry) -> None:
        current_context.set(entry.context)
        try:
            await self._pump(entry)
        except Refused as error:
            self.refused += 1
            entry.answer(error)
        except asyncio.CancelledError as error:
            if not entry.cancelled:
                self._on_crash(error)  # nobody here cancelled it: it came out of the handler
            self.cancelled += 1
        except BaseException as error:  # noqa: BLE001 - crash means crash
            self._on_crash(error)
        finally:
            self._open.pop((id(entry.sink), entry.id), None)

    async def _pump(self, entry: Entry) -> None:
        sink, credit = entry.sink, entry.credit
        assert sink is not None  # noqa: S101 - `open` made both
        assert credit is not None  # noqa: S101
        source: Any = self._server.handle_stream(entry.body)
        if inspect.isawaitable(source):  # an `async def` that returns an iterator, and so is none itself
            source = await source
        items = aiter(source)
        count = 0
        try:
            while True:
                # First the leave, then the item: the generator is never further than what its reader takes.
                await credit.take()
                await sink.until_writable()
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                try:
                    sink.item(entry.id, count, item)
                except WireError as error:
                    self.refused += 1
                    entry.answer(error)
                    return
                count += 1
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        self.handled += 1
        sink.end(entry.id, count)
