"""The process that runs stock Thespian and measures it: `python -m supervisors.bench.stock.driver FD private|shared`.

It talks with the bench over the socket `FD`, in lines of JSON, and ends when the bench closes its end. `private` says
that it has a network and pids of its own: it is to bring the loopback interface up. Whatever Thespian has started is killed
when it ends. One thread, no event loop.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import statistics
import struct
import sys
import time
from contextlib import suppress
from typing import Any

from thespian.actors import ActorAddress, ActorSystem

from supervisors.bench.stock.actors import Echo, Parent
from supervisors.bench.subject import MESSAGE
from supervisors.process.birth import become_subreaper
from supervisors.process.procfs import children_of

__all__ = ["main"]

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_TIMEOUT = 10.0


def bring_up_loopback() -> None:
    """A new network namespace has a loopback interface that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


class Driver:
    """One actor system and what is measured of it."""

    def __init__(self) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self._system = ActorSystem("multiprocTCPBase", capabilities={"Admin Port": port})
        self._echo = self._system.createActor(Echo)
        self._parent = self._system.createActor(Parent)
        self._system.tell(self._parent, "start")
        self._child = int(self._ask(self._parent, ("not", 0))[0])

    def p50(self, calls: int | None, seconds: float) -> float:
        """The median duration of one `ask`, one after the other."""
        clock = time.perf_counter
        durations: list[float] = []
        began = now = clock()
        while len(durations) < calls if calls is not None else now - began < seconds:
            before = clock()
            answer = self._ask(self._echo, MESSAGE)
            now = clock()
            durations.append(now - before)
        if answer != MESSAGE:
            raise RuntimeError(f"the answer was {answer!r}")
        return statistics.median(durations)

    def rate(self, calls: int | None, seconds: float, outstanding: int) -> float:
        """Messages per second from this process to an actor and back, with that many under way: one more for each answer."""
        clock = time.perf_counter
        sent = answered = 0
        began = clock()
        while sent < outstanding:
            self._system.tell(self._echo, MESSAGE)
            sent += 1
        elapsed = 0.0
        while answered < sent:
            answer = self._system.listen(_TIMEOUT)
            if answer != MESSAGE:
                raise RuntimeError(f"the answer was {answer!r}")
            answered += 1
            elapsed = clock() - began
            if sent < calls if calls is not None else elapsed < seconds:
                self._system.tell(self._echo, MESSAGE)
                sent += 1
        return answered / elapsed

    def recovery(self) -> float:
        """Seconds from the SIGKILL of a child to the first answer of the one that its parent makes in its place."""
        before = time.monotonic()
        os.kill(self._child, signal.SIGKILL)
        self._child, answered = self._ask(self._parent, ("not", self._child))
        return float(answered) - before

    def _ask(self, target: ActorAddress, message: Any) -> Any:
        answer = self._system.ask(target, message, _TIMEOUT)
        if answer is None:
            raise RuntimeError(f"no answer to {message!r:.100}")
        return answer


def kill_descendants() -> None:
    """SIGKILL whatever this process, or a child of it, has started, and wait until it is gone. It is their subreaper."""
    while True:
        for pid in children_of(os.getpid()):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def serve(bench: socket.socket) -> None:
    """Answer the bench's questions until it closes its end."""
    with bench.makefile("rw", encoding="utf-8", newline="\n") as lines:
        try:
            driver = Driver()
            answer: dict[str, Any] = {"value": 0.0}
        except Exception as error:  # noqa: BLE001 - told to the bench, which ends this process
            answer = {"error": f"{type(error).__name__}: {error}"}
        while True:
            lines.write(json.dumps(answer) + "\n")
            lines.flush()
            line = lines.readline()
            if not line:
                return
            question = json.loads(line)
            try:
                answer = {"value": getattr(driver, question.pop("measure"))(**question)}
            except Exception as error:  # noqa: BLE001 - as above
                answer = {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Called once, in the driver's process."""
    private = sys.argv[2] == "private"
    if private:
        bring_up_loopback()
    else:
        become_subreaper()
    try:
        with suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=int(sys.argv[1])) as bench:
            serve(bench)
    finally:
        if not private:  # else it is process 1 of its namespace, and the kernel kills all others with it
            kill_descendants()


if __name__ == "__main__":
    main()
