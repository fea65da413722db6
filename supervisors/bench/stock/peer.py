"""The bench's end of stock Thespian: starts its driver where nobody else reaches it, asks it, ends it. In the bench's loop."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from supervisors.bench.measure import BenchFailed, Effort, Tell
from supervisors.process.procfs import RUN_TOKEN, every_stat, run_token

__all__ = ["StockThespian", "stock_thespian"]

_START_TIMEOUT = 30.0
_ANSWER_TIMEOUT = 30.0
_END_TIMEOUT = 5.0
_NAMESPACES = ("--net", "--pid", "--fork", "--kill-child")
_WAYS = (_NAMESPACES, ("--user", "--map-root-user", *_NAMESPACES))
_OPEN = (
    "notice: this machine allows no network namespace, so the ports of stock Thespian, which unpickles what it is sent, "
    "are open to the network while the bench runs"
)


class StockThespian:
    """What can be asked of it. Made by `stock_thespian`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: Path) -> None:
        self._reader = reader
        self._writer = writer
        self._log = log

    async def p50(self, effort: Effort) -> float:
        """The median duration of one `ask`, in seconds."""
        return await self._ask(measure="p50", calls=effort.calls, seconds=effort.seconds)

    async def rate(self, effort: Effort, outstanding: int) -> float:
        """Messages per second from a process to an actor and back, with that many under way."""
        return await self._ask(measure="rate", calls=effort.calls, seconds=effort.seconds, outstanding=outstanding)

    async def recovery(self) -> float:
        """Seconds from the SIGKILL of a child to the answer of the one in its place."""
        return await self._ask(measure="recovery")

    async def ready(self) -> None:
        """Wait until its actors are up."""
        await self._answer(_START_TIMEOUT)

    async def _ask(self, **question: Any) -> float:
        self._writer.write(json.dumps(question).encode() + b"\n")
        return await self._answer(_ANSWER_TIMEOUT + (question.get("seconds") or 0.0))

    async def _answer(self, timeout: float) -> float:
        try:
            async with asyncio.timeout(timeout):
                line = await self._reader.readline()
        except TimeoutError:
            raise BenchFailed(f"stock Thespian did not answer within {timeout:g} s{self._last_words()}") from None
        except ConnectionError:
            line = b""
        if not line:
            raise BenchFailed(f"the process of stock Thespian has ended{self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise BenchFailed(f"stock Thespian: {answer['error']}")
        return float(answer["value"])

    def _last_words(self) -> str:
        with suppress(OSError):
            text = self._log.read_text(encoding="utf-8", errors="replace").strip()
            if text:
                return f"; its last lines:\n{text[-2000:]}"
        return ""


@asynccontextmanager
async def stock_thespian(directory: Path, tell: Tell) -> AsyncIterator[StockThespian]:
    """Start stock Thespian; none of its processes is left when the block is left. Its lines go to files in `directory`."""
    namespace = await asyncio.to_thread(_namespace)
    if namespace is None:
        tell(_OPEN)
    token = secrets.token_hex(16)
    log = directory / "stock-thespian.log"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    process: subprocess.Popen[bytes] | None = None
    try:
        with theirs, log.open("ab") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - some milliseconds, before anything is measured
                [
                    *(namespace or ()),
                    *(sys.executable, "-m", "supervisors.bench.stock.driver", str(theirs.fileno())),
                    "shared" if namespace is None else "private",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at a terminal is the bench's to handle
                env={**os.environ, RUN_TOKEN: token, "THESPLOG_FILE": str(directory / "thespian-internal.log")},
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            peer = StockThespian(reader, writer, log)
            await peer.ready()
            yield peer
        finally:
            writer.close()
    finally:
        ours.close()
        if process is not None:
            await asyncio.shield(asyncio.to_thread(_end, process, token))


def _namespace() -> list[str] | None:
    """The command that gives a process a network and pids of its own, or None where that is not allowed."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    for way in _WAYS:
        command = [unshare, *way]
        tried = subprocess.run([*command, "true"], capture_output=True, check=False, timeout=_END_TIMEOUT)
        if tried.returncode == 0:
            return command
    return None


def _end(process: subprocess.Popen[bytes], token: str) -> None:
    """Wait for the driver, which ends its actor system and itself; then kill whatever carries the token and is still there."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_TIMEOUT)
    while left := [stat.pid for stat in every_stat() if not stat.dead and run_token(stat.pid) == token]:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
    process.wait()
