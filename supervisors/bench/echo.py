"""The bare echo: what a call costs when it is nothing but a Unix socket, uvloop and msgpack. The peer of every link.

Two processes, as in the measured system. Length-prefixed msgpack goes through uvloop protocols on both sides; the answers
come in the order of the questions, so there are no ids, and there are no deadlines, no mailbox, no names and no errors.
`python -m supervisors.bench.echo FD` is the other process: it serves the socket `FD` until the bench closes its end.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgpack
import uvloop

__all__ = ["BareEcho", "bare_echo"]

_length = struct.Struct(">I")
_END_TIMEOUT = 5.0


class _Framed(asyncio.Protocol):
    """Cuts what arrives into bodies. In the bench's loop and in the echo process's."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start, end = 4, len(data)
        while start <= end:
            stop = start + _length.unpack_from(data, start - 4)[0]
            if stop > end:
                break
            self.received(msgpack.unpackb(data[start:stop]))
            start = stop + 4
        self._rest = data[start - 4 :]

    def send(self, value: Any) -> None:
        """Write one value."""
        body = msgpack.packb(value)
        self._transport.write(_length.pack(len(body)) + body)

    def received(self, value: Any) -> None:
        """One value has arrived."""
        raise NotImplementedError


class _Server(_Framed):
    """The side that answers."""

    def __init__(self, ended: asyncio.Event) -> None:
        super().__init__()
        self._ended = ended

    def received(self, value: Any) -> None:
        self.send(value)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._ended.set()


class BareEcho(_Framed):
    """The side that asks. Made by `bare_echo`, used in the loop that made it."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._pending: deque[asyncio.Future[Any]] = deque()
        self.pid = 0
        """of the other process"""

    async def call(self, value: Any) -> Any:
        """Send a value and wait for it to come back. Raises ConnectionError when the other process has ended."""
        future = self._loop.create_future()
        self._pending.append(future)
        self.send(value)
        return await future

    def received(self, value: Any) -> None:
        self._pending.popleft().set_result(value)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        while self._pending:
            future = self._pending.popleft()
            if not future.done():
                future.set_exception(ConnectionError("the bare echo process has ended"))

    def close(self) -> None:
        """End the other process: it lives as long as this socket."""
        self._transport.close()


@asynccontextmanager
async def bare_echo() -> AsyncIterator[BareEcho]:
    """Start the echo process; it has ended when the block is left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - some milliseconds, before anything is measured
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C at a terminal is the bench's to handle
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    try:
        _, echo = await asyncio.get_running_loop().create_unix_connection(BareEcho, sock=ours)
        echo.pid = process.pid
        try:
            yield echo
        finally:
            echo.close()
    finally:
        ours.close()
        try:
            await asyncio.to_thread(process.wait, _END_TIMEOUT)
        finally:
            process.kill()
            process.wait()


async def _serve(descriptor: int) -> None:
    ended = asyncio.Event()
    sock = socket.socket(fileno=descriptor)
    await asyncio.get_running_loop().create_unix_connection(lambda: _Server(ended), sock=sock)
    await ended.wait()


def _main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    _main()
