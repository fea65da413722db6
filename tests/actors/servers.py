"""Servers that misbehave in the ways that the law of processes is made for."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from supervisors import Server
from supervisors.actors import birth_record
from supervisors.process.cgroup import ControlGroup
from supervisors.process.procfs import thread_names
from supervisors.spec import ChildSpec
from tests.servers import Probe

__all__ = ["BreaksItsText", "Hangs", "HangsInTheMaking", "Inside"]


class Inside(Probe):
    """Does inside its process what a test asks for."""

    async def handle_call(self, message: Any) -> Any:
        match message:
            case "collector":
                return gc.isenabled(), gc.get_freeze_count() > 0
            case "thread names":
                return thread_names()
            case "fork in a thread":
                return await asyncio.to_thread(_fork)
            case ("spawn", how):
                return _spawn(how)
            case "double fork":
                return _double_fork()
            case "close everything":
                os.closerange(3, 1000)
                return None
            case "unregister everything":
                _leave_epolls()
                return None
            case "stop the loop":
                asyncio.get_running_loop().stop()
                return None
            case ("write report", bytes(data)):
                return os.write(_report_descriptor(), data) > 0
            case ("raise", bytes(text)):
                raise RuntimeError(text.decode(errors="surrogateescape"))
            case "raise without a text":
                raise BreaksItsText
            case ("block", seconds):
                time.sleep(seconds)  # noqa: ASYNC251 - the point
                return "blocked"
        return await super().handle_call(message)


class BreaksItsText(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _fork() -> int:
    """A child of this very thread, which then ends."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pause()
        os._exit(0)
    return pid


def _spawn(how: str) -> int:
    return subprocess.Popen(
        ["/bin/sleep", "100"],
        env={} if how == "without environment" else None,
        start_new_session=how == "session of its own",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ).pid


def _double_fork() -> int:
    """A daemon: its parent has ended."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        daemon = os.fork()
        if daemon:
            os.write(write, str(daemon).encode())
            os._exit(0)
        signal.pause()
        os._exit(0)
    os.waitpid(child, 0)
    daemon = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    return daemon


def _leave_epolls() -> None:
    """Take everything out of every epoll that is open here: politely, as the close of an inherited loop would."""
    own = os.readlink
    for entry in os.listdir("/proc/self/fd"):
        try:
            if own(f"/proc/self/fd/{entry}") != "anon_inode:[eventpoll]":
                continue
        except OSError:
            continue
        epoll = select.epoll.fromfd(int(entry))
        for line in Path(f"/proc/self/fdinfo/{entry}").read_text().splitlines():
            if line.startswith("tfd:"):
                epoll.unregister(int(line.split()[1]))


def _report_descriptor() -> int:
    """The pipe to the supervisor: a fault that a test makes, so it looks where no server should."""
    [loop] = [each for each in threading.enumerate() if each.name.startswith("loop of")]
    return int(loop._target.__self__._record.report)  # type: ignore[attr-defined]


class Hangs(Server):
    """Its `init` does not return: at once, or when `flag` is there already, in the way it is told."""

    async def init(self, how: str, flag: str | None = None) -> None:
        if flag is not None and not Path(flag).exists():
            Path(flag).touch()
            return
        if how == "blocks":
            time.sleep(1000)  # noqa: ASYNC251 - the point
        await asyncio.sleep(1000)

    async def handle_call(self, message: Any) -> Any:
        return os.getpid()


class HangsInTheMaking(Server):
    """Does not even get made."""

    def __init__(self) -> None:
        time.sleep(1000)


def _in_child() -> None:
    """In every process of a node that imports this module, right after the fork: trouble for the actors of certain ids."""
    record = birth_record._Slot.record
    if record is None:
        return
    if isinstance(record.spec, ChildSpec):
        if record.spec.id == "stuck at birth":
            time.sleep(1000)
        if record.spec.id == "dead at birth":
            os._exit(7)
    elif record.spec.id == "inner" and (flag := os.environ.get("TEST_DEAD_AT_BIRTH")) and Path(flag).exists():
        os._exit(7)
    elif record.spec.id == "threaded" and record.place.endswith("threaded"):
        threading.Thread(target=threading.Event().wait, name="the culprit", daemon=True).start()


def hold_forks(flag: Path) -> None:
    """From now on no process of this node can fork while `flag` exists, as when the limit of processes is reached."""
    fork = os.fork

    def limited() -> int:
        if flag.exists():
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    os.fork = limited


def tell_what_thespian_holds(journal: Path) -> None:
    """Before each birth a supervisor of this node appends what its Thespian keeps of children: procs, addresses, mail."""
    from supervisors.actors import offspring, supervisor_actor

    bear = offspring.bear

    def told(actor: Any, *args: Any, **kwargs: Any) -> Any:
        manager = actor._myRef
        held = (
            len(getattr(manager, "_child_procs", ())),
            len(manager._children),
            len(manager._awaitingAddressUpdate._awt),
            sum(each is not None for each in manager._addrManager._managed),
        )
        with journal.open("a") as file:
            file.write(f"{kwargs['place']} {' '.join(map(str, held))}\n")
        return bear(actor, *args, **kwargs)

    supervisor_actor.bear = told  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_in_child)
if "pytest" not in sys.modules:
    if _flag := os.environ.get("TEST_HOLD_FORKS"):
        hold_forks(Path(_flag))
    if os.environ.get("TEST_NO_CGROUP"):
        ControlGroup.make = classmethod(lambda *_: None)  # type: ignore[assignment, method-assign]
    if _journal := os.environ.get("TEST_THESPIAN_HOLDS"):
        tell_what_thespian_holds(Path(_journal))
