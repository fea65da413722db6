"""One living child process of a supervisor, from its fork to its burial. Called in the supervisor's only thread.

Thespian creates it, by a fork of this process, and delivers messages to it. Its life and death are followed here alone, by
a pidfd: Thespian is relieved of its own care for children, which would reap them by number and keep what belonged to
dead ones for as long as the supervisor lives.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from thespian.actors import Actor
from thespian.system.transport import SendStatus

from supervisors.actors.birth_record import BirthRecord, Surroundings, hand_over
from supervisors.actors.report import ReportReader, open_reports
from supervisors.exits import ExitReason, Lost, reason_of_status
from supervisors.process.birth import assert_single_thread, closing_in_child, open_descriptors
from supervisors.process.identity import kill_group
from supervisors.process.procfs import read_stat
from supervisors.spec import ChildSpec, Supervisor

__all__ = ["Offspring", "bear", "tidy"]

_SOCKET = re.compile(r"[sd][0-9]+")  # of a server, of a supervisor: and its pid


@dataclass(slots=True, eq=False)
class Offspring:
    """One child process, as the kernel and Thespian know it. Its pid is its own until `bury`: nobody else reaps it."""

    id: str
    incarnation: int
    address: Any
    pid: int
    pidfd: int
    reports: ReportReader
    surroundings: Surroundings
    process: BaseProcess
    said: ExitReason | None = None
    """its own word on how it ends"""
    left: list[int] = field(default_factory=list)
    """pids of what it had started and that was killed after it"""

    def has_ended(self) -> bool:
        """Whether the process is dead; it is not reaped by this."""
        try:
            return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # it has been reaped, against all rules
            return True

    def kill(self) -> None:
        """SIGKILL."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def bury(self, actor: Actor) -> ExitReason:
        """Reap the dead process, kill what it left, remove its sockets, close what stood for it. Returns why it ended."""
        status = self.process.exitcode  # reaps it
        os.close(self.pidfd)
        self.reports.close()
        self.left = kill_group(self.pid, self.surroundings.token)
        if self.surroundings.cgroup is not None:
            self.left += self.surroundings.cgroup.end(self.pid)
        for kind in ("s", "d"):
            with suppress(OSError):
                os.unlink(self.surroundings.directory / f"{kind}{self.pid}")  # noqa: PTH108
        _forget(actor, self.address)
        if status is not None:
            self.process.close()
        if self.said is not None:
            return self.said
        return reason_of_status(status) if status is not None else Lost("somebody else reaped it")


def bear(  # noqa: PLR0913 - what makes a child
    actor: Actor,
    kind: type[Actor],
    *,
    surroundings: Surroundings,
    spec: ChildSpec | Supervisor,
    place: str,
    incarnation: int,
    door: str,
) -> Offspring:
    """Fork a child. Raises `ForkRefused` when this process has a second thread, OSError when the kernel makes no process."""
    assert_single_thread()
    ours, theirs = open_reports()
    before = open_descriptors()
    private = before - surroundings.kept - {theirs}
    record = BirthRecord(surroundings, spec, place, incarnation, door, theirs)
    try:
        with hand_over(record), closing_in_child(private):
            address = actor.createActor(kind)
        process = _take_from_thespian(actor, address)
        if process is None or process.pid is None:
            _close_leaked(before)
            raise OSError("the process could not be created; see the limits of this machine")
        pidfd = _watch(process)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Offspring(spec.id, incarnation, address, process.pid, pidfd, ReportReader(ours), surroundings, process)


def tidy(surroundings: Surroundings) -> None:
    """Remove what stood for processes that are no more: those below a supervisor that was killed had nobody to do it."""
    if surroundings.cgroup is not None:
        surroundings.cgroup.tidy()
    directory = surroundings.directory
    for entry in os.listdir(directory):  # noqa: PTH208
        if _SOCKET.fullmatch(entry):
            found = read_stat(int(entry[1:]))
            if found is None or found.dead:
                with suppress(OSError):
                    os.unlink(directory / entry)  # noqa: PTH108


def _take_from_thespian(actor: Actor, address: Any) -> BaseProcess | None:
    """The process behind an address that `createActor` just gave, which Thespian forgets herewith."""
    children = getattr(actor._myRef, "_child_procs", [])
    for index in reversed(range(len(children))):
        if children[index].childAddr == address:
            return children.pop(index).childProc  # type: ignore[no-any-return]
    return None


def _watch(process: BaseProcess) -> int:
    """A pidfd of the newborn. Raises OSError when there are no descriptors left; then there is no child either."""
    try:
        return os.pidfd_open(process.pid or 0)
    except OSError:
        process.kill()
        process.join()
        raise


def _close_leaked(before: frozenset[int]) -> None:
    """Close the pipes that `multiprocessing` opens before a fork and forgets when that fails."""
    for number in open_descriptors() - before:
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.close(number)


def _forget(actor: Actor, address: Any) -> None:
    """Have Thespian forget a dead child: what waits to be sent to it, and its address."""
    manager = actor._myRef
    book = manager._addrManager
    real = book.exportAddr(address)
    for intent in manager._awaitingAddressUpdate.remove_intents_for_address(address):
        intent.tx_done(SendStatus.Failed)
    if real is not None:
        manager.transport.deadAddress(book, real)
        manager._children = [each for each in manager._children if each != real]
    book._managed[address.addressDetails.addressInstanceNum] = None
