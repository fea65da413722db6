"""One tree, from the admin's fork to the root's birth. Called in the node's only thread; nothing here waits without a bound.

Thespian's own `createActor` waits 50 s for an answer that a killed admin will never give. So the same request is sent by
hand, with the admin's death among the things that are waited for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from thespian.system.messages.admin import PendingActor, PendingActorResponse
from thespian.system.timing import ExpirationTimer
from thespian.system.transport import ReceiveEnvelope, TransmitIntent

from supervisors.actors.birth_record import BirthRecord, Surroundings, hand_over
from supervisors.actors.messages import Begin
from supervisors.actors.report import ReportReader, open_reports
from supervisors.actors.supervisor_actor import SupervisorActor
from supervisors.errors import NodeError
from supervisors.process.birth import assert_single_thread, closing_in_child, open_descriptors
from supervisors.spec import Supervisor
from supervisors.wire.system_base import ControlPlane, admin_pid, start

__all__ = ["ROOT_ACTOR", "Tree", "boot"]

ROOT_ACTOR = f"{SupervisorActor.__module__}.{SupervisorActor.__qualname__}"
"""The one class that Thespian's admin may be asked to create."""


@dataclass(slots=True)
class Tree:
    """One booted tree. `admin` is a pidfd of a child of this process; `reports` is the root's pipe."""

    admin_pid: int
    admin: int
    reports: ReportReader
    root_pid: int = 0
    root: int = -1
    ready: bool = False

    def close(self) -> None:
        """Called when every process of the tree is gone."""
        for descriptor in (self.admin, self.root):
            if descriptor >= 0:
                os.close(descriptor)
        self.reports.close()


def boot(plane: ControlPlane, root: Supervisor, surroundings: Surroundings, timeout: float) -> Tree:
    """Fork the admin, have it create the root supervisor, and tell that to begin.

    The root's birth record goes through both forks in memory. Raises `NodeError` when the admin dies or does not answer
    within `timeout` seconds; whatever was forked is then for the caller to clear away.
    """
    assert_single_thread()
    deadline = time.monotonic() + timeout
    ours, theirs = open_reports()
    private = open_descriptors() - surroundings.kept - {theirs}
    record = BirthRecord(surroundings, root, root.id, 0, "", theirs)
    try:
        with hand_over(record), closing_in_child(private):
            system = start(plane)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    pid = admin_pid(system)
    tree = Tree(pid, os.pidfd_open(pid), ReportReader(ours))
    transport = system._systemBase.transport
    try:
        address = _create(transport, system._systemBase.adminAddr, tree.admin, deadline)
        _send(transport, address, Begin(), tree.admin, deadline)
    except BaseException:
        tree.close()
        raise
    finally:
        transport.close()  # from here on the node only watches; it listens nowhere
    return tree


def _create(transport: Any, admin: Any, admin_pidfd: int, deadline: float) -> Any:
    request = PendingActor(ROOT_ACTOR, None, 1, None, globalName=None)
    transport.scheduleTransmit(None, TransmitIntent(admin, request))
    response = _run(transport, admin_pidfd, deadline, PendingActorResponse)
    if response.errorCode or response.actualAddress is None:
        problem = f"Thespian's admin did not create the root supervisor: {response.errorStr or response.errorCode}"
        raise NodeError(problem)
    return response.actualAddress


def _send(transport: Any, address: Any, message: Any, admin_pidfd: int, deadline: float) -> None:
    state: list[str] = []

    def done(what: str) -> None:
        state.append(what)
        transport.abort_run()

    intent = TransmitIntent(address, message, onSuccess=lambda *_: done("sent"), onError=lambda *_: done("failed"))
    transport.scheduleTransmit(None, intent)
    while not state:
        _run_once(transport, admin_pidfd, deadline)
    if state[0] != "sent":
        problem = "the root supervisor ended before it began"
        raise NodeError(problem)


def _run(transport: Any, admin_pidfd: int, deadline: float, wanted: type[Any]) -> Any:
    while True:
        said = _run_once(transport, admin_pidfd, deadline)
        if isinstance(said, ReceiveEnvelope) and isinstance(said.message, wanted):
            return said.message


def _run_once(transport: Any, admin_pidfd: int, deadline: float) -> Any:
    """One turn of Thespian's transport, which ends at a message, at the admin's death or at the deadline."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        problem = "Thespian's admin did not answer in time"
        raise NodeError(problem)
    transport.set_watch([admin_pidfd])
    try:
        said = transport.run(None, ExpirationTimer(remaining).duration)
    finally:
        transport.set_watch([])
    if _has_ended(admin_pidfd):
        problem = "Thespian's admin died while it started the tree"
        raise NodeError(problem)
    return said


def _has_ended(pidfd: int) -> bool:
    return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
