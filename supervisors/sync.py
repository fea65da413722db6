"""The client without `await`: for scripts, threads, and notebooks whose own loop is running.

`with sync.embed(tree) as client: client.ref("counter").call("get")`. The client lives in a thread of its own with a loop
of its own, so it also works inside a running loop (which it blocks, as any synchronous call does). Its methods may be
called from any thread of the process that opened it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from supervisors import client as _client
from supervisors.errors import ClientClosed, ClientForked
from supervisors.ref import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from types import TracebackType

    from supervisors.client import Client
    from supervisors.envelope import Statistics
    from supervisors.ref import Ref
    from supervisors.spec import ChildSpec, Supervisor
    from supervisors.tree import Branch
    from supervisors.wire.peer import LinkStatistics
    from supervisors.wire.vocabulary import Address, Down

__all__ = ["SyncClient", "SyncRef", "attach", "embed"]

T = TypeVar("T")

_LAST_TASKS_TIMEOUT = 10.0


def embed(tree: Supervisor | ChildSpec, **options: Any) -> SyncClient:
    """As `supervisors.embed`, with its options."""
    return SyncClient(_client.embed(tree, **options))


def attach(name_or_directory: str | Path = "local") -> SyncClient:
    """As `supervisors.attach`."""
    return SyncClient(_client.attach(name_or_directory))


class SyncClient:
    """A client in a thread of its own. Opened by `with`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # between who hands work to the loop and who ends it

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise ClientClosed("this client has been opened before; make another")
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_live, args=(loop,), name="supervisors client", daemon=True)
        self._thread.start()
        self._loop = loop
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """As `Client.close`. Idempotent."""
        if self._loop is not None and self._pid == os.getpid():
            try:
                with suppress(ClientClosed):  # another thread is closing it
                    self._run(self._client.close())
            finally:
                self._end()

    def ref(self, name: str) -> SyncRef:
        """A reference to the server of that name."""
        return SyncRef(self, self._run(_later(self._client.ref, name)))

    def tree(self, *, timeout: float = 5.0) -> Branch:
        """As `Client.tree`."""
        return self._run(self._client.tree(timeout=timeout))

    def names(self, *, timeout: float = 5.0) -> dict[str, Address]:
        """As `Client.names`."""
        return self._run(self._client.names(timeout=timeout))

    def stop_node(self, *, timeout: float = 5.0) -> None:
        """As `Client.stop_node`."""
        self._run(self._client.stop_node(timeout=timeout))

    def statistics(self) -> LinkStatistics:
        """As `Client.statistics`."""
        return self._run(_later(self._client.statistics))

    @property
    def directory(self) -> Path:
        """As `Client.directory`."""
        return self._run(_later(lambda: self._client.directory))

    @property
    def node_pid(self) -> int | None:
        """As `Client.node_pid`."""
        return self._client.node_pid

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the client's loop and wait. Every operation of a client ends by itself."""
        try:
            future = self._hand_over(work)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed("this client was closed meanwhile") from None
        except BaseException:
            future.cancel()  # an interrupt of this thread; for all else it has no effect
            raise

    def _hand_over(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if os.getpid() != self._pid:
            raise ClientForked(
                f"this client was opened in process {self._pid} and this is process {os.getpid()}, forked from it: "
                "open a client of its own in each process, after the fork"
            )
        if threading.current_thread() is self._thread:
            raise ClientClosed("a synchronous client cannot be called from its own loop; use supervisors.embed or attach")
        with self._lock:
            if self._loop is None:
                raise ClientClosed("this client is closed" if self._thread else "this client is not open: use it inside `with`")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_finish(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()


class SyncRef:
    """A reference to one server by its registered name; as `Ref`, without `await`."""

    def __init__(self, client: SyncClient, ref: Ref) -> None:
        self._client = client
        self._ref = ref
        self.name = ref.name

    def __repr__(self) -> str:
        return f"<SyncRef {self.name!r}>"

    def call(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None, trace: str | None = None
    ) -> Any:
        """As `Ref.call`."""
        return self._client._run(self._ref.call(message, timeout=timeout, correlation=correlation, trace=trace))

    def cast(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None, trace: str | None = None
    ) -> None:
        """As `Ref.cast`."""
        self._client._run(self._ref.cast(message, timeout=timeout, correlation=correlation, trace=trace))

    def stream(
        self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None, trace: str | None = None
    ) -> Iterator[Any]:
        """As `Ref.stream`. Leaving the loop early cancels it."""
        items = self._ref.stream(message, timeout=timeout, correlation=correlation, trace=trace)
        try:
            while True:
                found, item = self._client._run(_next(items))
                if not found:
                    return
                yield item
        finally:
            with suppress(ClientClosed, ClientForked):  # then it has ended anyway
                self._client._run(_close(items))

    def monitor(self) -> Down:
        """As `Ref.monitor`: waits until the server's process ends."""
        return self._client._run(self._ref.monitor())

    def ping(self, *, timeout: float = DEFAULT_TIMEOUT) -> float:
        """As `Ref.ping`."""
        return self._client._run(self._ref.ping(timeout=timeout))

    def statistics(self, *, timeout: float = DEFAULT_TIMEOUT) -> Statistics:
        """As `Ref.statistics`."""
        return self._client._run(self._ref.statistics(timeout=timeout))

    def address(self, *, timeout: float = DEFAULT_TIMEOUT) -> Address:
        """As `Ref.address`."""
        return self._client._run(self._ref.address(timeout=timeout))


def _live(loop: asyncio.AbstractEventLoop) -> None:
    """The client's thread, from the first turn of its loop to the last."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _finish() -> None:
    """Called last in the client's loop: what still runs there has been told that the client is closed; wait until it knows."""
    loop = asyncio.get_running_loop()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if rest:
        _, stuck = await asyncio.wait(rest, timeout=_LAST_TASKS_TIMEOUT)
        for task in stuck:
            task.cancel()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


async def _later(function: Callable[..., T], *args: Any) -> T:
    """Called in the client's loop, where refs belong."""
    return function(*args)


async def _next(items: AsyncGenerator[Any, None]) -> tuple[bool, Any]:
    try:
        return True, await anext(items)
    except StopAsyncIteration:
        return False, None


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
