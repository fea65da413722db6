"""One tree, from the admin's fork to the root's birth. Called in the node's only thread; nothing here waits without a bound.

Thespian's own `createActor` waits 50 s for an answer that a killed admin will never give. So the same request is sent by
hand, and every wait looks up several times a second: whether the admin lives, and what the node itself has to look at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thespian.actors import ActorSystemException
from thespian.system.messages.admin import PendingActor, PendingActorResponse
from thespian.system.transport import ReceiveEnvelope, TransmitIntent

from supervisors.actors.birth_record import BirthRecord, Surroundings, hand_over
from supervisors.actors.messages import Begin
from supervisors.actors.report import ReportReader, open_reports
from supervisors.actors.supervisor_actor import SupervisorActor
from supervisors.errors import ForkRefused, NodeError
from supervisors.process.birth import assert_single_thread, closing_in_child, open_descriptors
from supervisors.process.procfs import read_stat, thread_count
from supervisors.spec import Supervisor
from supervisors.wire.system_base import AdminStartError, ControlPlane, admin_pid, start

__all__ = ["ROOT_ACTOR", "BootFailed", "Tree", "boot"]

ROOT_ACTOR = f"{SupervisorActor.__module__}.{SupervisorActor.__qualname__}"
"""The one class that Thespian's admin may be asked to create."""
_LOOK = 0.1


class BootFailed(NodeError):
    """Raised when something outside the tree ended its boot: the admin was killed, say. Another boot may well succeed."""


@dataclass(slots=True)
class Tree:
    """One booted tree. `admin` is a pidfd of a child of this process, `root` of a child of that, `reports` the root's pipe."""

    admin_pid: int
    admin: int
    reports: ReportReader
    root: int = -1
    ready: bool = False

    def born(self, pid: int) -> bool:
        """The root says that it is there. False when it is not any more."""
        try:
            self.root = os.pidfd_open(pid)
        except OSError:
            return False
        stat = read_stat(pid)
        return stat is not None and stat.parent == self.admin_pid

    def close(self) -> None:
        """Called when every process of the tree is gone."""
        for descriptor in (self.admin, self.root):
            if descriptor >= 0:
                os.close(descriptor)
        self.reports.close()


def boot(
    plane: ControlPlane, root: Supervisor, surroundings: Surroundings, timeout: float, meanwhile: Callable[[int], None]
) -> Tree:
    """Fork the admin, have it create the root supervisor, and tell that to begin.

    The root's birth record goes through both forks in memory. `meanwhile` is called several times a second with the
    admin's pid (0 before its fork) and may raise. Raises `BootFailed` when the admin dies or does not answer within
    `timeout` seconds, `ForkRefused` when this process or the admin has a second thread; whatever was forked is then for
    the caller to clear away.
    """
    assert_single_thread()
    deadline = time.monotonic() + timeout
    ours, theirs = open_reports()
    private = open_descriptors() - surroundings.kept - {theirs}
    record = BirthRecord(surroundings, root, root.id, 0, "", theirs)
    reports = ReportReader(ours)

    def look(admin: int) -> None:
        stat = read_stat(admin) if admin else None
        if admin and (stat is None or stat.dead):
            raise BootFailed("Thespian's admin died while it started the tree")
        if admin and thread_count(admin) > 1:
            raise ForkRefused(
                f"Thespian's admin {admin} has more than one thread, so it may not fork; a module that this node imports "
                "starts a thread in every forked process (os.register_at_fork): have it do so in a server"
            )
        meanwhile(admin)

    try:
        with hand_over(record), closing_in_child(private):
            system = start(plane, meanwhile=look)
    except (AdminStartError, ActorSystemException) as error:
        reports.close()
        raise BootFailed(str(error)) from error
    except BaseException:
        reports.close()
        raise
    finally:
        os.close(theirs)
    pid = admin_pid(system)
    tree = Tree(pid, os.pidfd_open(pid), reports)
    waiting = _Waiting(system._systemBase.transport, pid, deadline, look)
    try:
        address = waiting.create(system._systemBase.adminAddr)
        waiting.send(address, Begin())
    except BaseException:
        tree.close()
        raise
    finally:
        waiting.transport.close()  # from here on the node only watches; it listens nowhere
    return tree


@dataclass(slots=True)
class _Waiting:
    """The node's own end of the control plane, for as long as a tree boots."""

    transport: Any
    admin: int
    deadline: float
    look: Callable[[int], None]

    def create(self, address: Any) -> Any:
        """Ask the admin at that address for the root; returns the root's address."""
        request = PendingActor(ROOT_ACTOR, None, 1, None, globalName=None)
        self.transport.scheduleTransmit(None, TransmitIntent(address, request))
        while True:
            said = self._once()
            if isinstance(said, ReceiveEnvelope) and isinstance(said.message, PendingActorResponse):
                break
        if said.message.errorCode or said.message.actualAddress is None:
            why = said.message.errorStr or said.message.errorCode
            raise BootFailed(f"Thespian's admin did not create the root supervisor: {why}")
        return said.message.actualAddress

    def send(self, address: Any, message: Any) -> None:
        """Send it and wait until it has been received."""
        state: list[bool] = []

        def done(sent: bool) -> None:  # noqa: FBT001
            state.append(sent)
            self.transport.abort_run()

        intent = TransmitIntent(address, message, onSuccess=lambda *_: done(True), onError=lambda *_: done(False))
        self.transport.scheduleTransmit(None, intent)
        while not state:
            self._once()
        if not state[0]:
            raise BootFailed("the root supervisor ended before it began")

    def _once(self) -> Any:
        """One turn of Thespian's transport, which ends at a message or at the next look."""
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise BootFailed("Thespian's admin did not answer in time")
        self.look(self.admin)
        return self.transport.run(None, min(remaining, _LOOK))
