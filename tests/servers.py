"""Servers that the tests put into trees. Imported by the node, so they stand in a module of their own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from supervisors import Refused, Server
from supervisors.exits import ExitReason
from supervisors.process import procfs

__all__ = ["Counter", "Probe"]


class Counter(Server):
    """Counts; crashes when told to."""

    async def init(self, start: int = 0) -> None:
        self.value = start

    async def handle_call(self, message: Any) -> Any:
        match message:
            case "get":
                return self.value
            case ("add", int(amount)):
                self.value += amount
                return self.value
            case "pid":
                return os.getpid()
            case "crash":
                raise RuntimeError("boom")
            case ("refuse", text):
                raise Refused(text, "no_way", {"value": self.value})
        return await super().handle_call(message)

    async def handle_cast(self, message: Any) -> None:
        match message:
            case ("add", int(amount)):
                self.value += amount
            case "crash":
                raise RuntimeError("boom")


class Probe(Server):
    """Tells what its process looks like from inside, and does what a test needs done there."""

    async def init(self, journal: str | None = None) -> None:
        self.journal = journal
        self.note("init")

    def note(self, line: str) -> None:
        """Append a line to the journal file, which outlives this process."""
        if self.journal is not None:
            with open(self.journal, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    async def handle_call(self, message: Any) -> Any:
        match message:
            case "pid":
                return os.getpid()
            case "threads":
                return procfs.thread_count()
            case "switch interval":
                return sys.getswitchinterval()
            case "group":
                return os.getpgid(0)
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
                return "slept"
            case ("compute", seconds):
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    pass
                return "computed"
            case ("echo", value):
                return value
            case "segfault":
                ctypes.string_at(0)
            case ("signal", number):
                os.kill(os.getpid(), number)
            case ("exit", status):
                os._exit(status)
            case "spawn":
                return subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
            case "descriptors":
                return {int(each): os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if _open(each)}
            case "handler of SIGSEGV":
                return signal.getsignal(signal.SIGSEGV) is signal.SIG_DFL
            case "thread names":
                return [each.name for each in threading.enumerate()]
            case "unsendable":
                return threading.Lock()
            case ("stop", reason):
                self.stop(reason)
                return "stopping"
            case "context":
                return list(self.context)
            case ("call", name, inner):
                return await self.ref(name).call(inner)
            case ("note and crash", line):
                self.note(line)
                raise RuntimeError(line)
        return await super().handle_call(message)

    async def handle_stream(self, message: Any) -> AsyncIterator[Any]:
        try:
            match message:
                case ("count", int(end)):
                    for number in range(end):
                        yield number
                case "endless":
                    number = 0
                    while True:
                        yield number
                        number += 1
                case ("crash after", int(count)):
                    for number in range(count):
                        yield number
                    raise RuntimeError("stream boom")
                case _:
                    raise Refused("no such stream", "unhandled")
        finally:
            self.note("stream closed")

    async def terminate(self, reason: ExitReason) -> None:
        self.note(f"terminate {reason}")


def _open(entry: str) -> bool:
    try:
        os.fstat(int(entry))
    except OSError:
        return False
    return True
