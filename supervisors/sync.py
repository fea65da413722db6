"""The client without `await`: for scripts, threads, and notebooks whose own loop is running.

`with sync.embed(tree) as client: client.ref("counter").call("get")`. The client lives in a thread of its own with a loop
of its own, so it also works inside a running loop (which it blocks, as any synchronous call does). Its methods may be
called from any thread of the process that opened it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from supervisors import client as _client
from supervisors.errors import ClientClosed, ClientForked
from supervisors.ref import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from types import TracebackType

    from supervisors.client import Client
    from supervisors.ref import Ref
    from supervisors.spec import ChildSpec, Supervisor
    from supervisors.tree import Branch
    from supervisors.wire.vocabulary import Address, Down

__all__ = ["SyncClient", "SyncRef", "attach", "embed"]

T = TypeVar("T")


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

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="supervisors client", daemon=True)
        self._thread.start()
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
        if self._loop is not None:
            self._run(self._client.close())
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

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the client's loop and wait. Every operation of a client ends by itself."""
        if os.getpid() != self._pid:
            work.close()
            raise ClientForked(
                f"this client was opened in process {self._pid} and this is process {os.getpid()}, forked from it: "
                "open a client of its own in each process, after the fork"
            )
        if self._loop is None:
            work.close()
            raise ClientClosed("this client is not open: use it inside `with`")
        if threading.current_thread() is self._thread:
            work.close()
            raise ClientClosed("a synchronous client cannot be called from its own loop; use supervisors.embed or attach")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()


class SyncRef:
    """A reference to one server by its registered name; as `Ref`, without `await`."""

    def __init__(self, client: SyncClient, ref: Ref) -> None:
        self._client = client
        self._ref = ref
        self.name = ref.name

    def __repr__(self) -> str:
        return f"<SyncRef {self.name!r}>"

    def call(self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None) -> Any:
        """As `Ref.call`."""
        return self._client._run(self._ref.call(message, timeout=timeout, correlation=correlation))

    def cast(self, message: Any, *, timeout: float = DEFAULT_TIMEOUT, correlation: str | None = None) -> None:
        """As `Ref.cast`."""
        self._client._run(self._ref.cast(message, timeout=timeout, correlation=correlation))

    def stream(self, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Iterator[Any]:
        """As `Ref.stream`. Leaving the loop early cancels it."""
        items = self._ref.stream(message, timeout=timeout)
        try:
            while True:
                found, item = self._client._run(_next(items))
                if not found:
                    return
                yield item
        finally:
            self._client._run(items.aclose())

    def monitor(self) -> Down:
        """As `Ref.monitor`: waits until the server's process ends."""
        return self._client._run(self._ref.monitor())


async def _later(function: Any, *args: Any) -> Any:
    """Called in the client's loop, where refs belong."""
    return function(*args)


async def _next(items: Any) -> tuple[bool, Any]:
    try:
        return True, await anext(items)
    except StopAsyncIteration:
        return False, None
