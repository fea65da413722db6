"""The actor that hosts one supervisor: it turns what happens into events of the `Machine` and carries its effects out.

It has one thread, because it forks. In it, Thespian delivers: `Begin`, `StopActor`, timers, and the readiness of the one
descriptor it watches, the door's. Behind that door are the supervisor's link, a pidfd and a report pipe of each child.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

from thespian.actors import Actor, ActorExitRequest, ThespianWatch, WakeupMessage

from supervisors.actors import logs
from supervisors.actors.birth_record import BirthRecord, hand_over, take
from supervisors.actors.messages import Begin, StopActor
from supervisors.actors.report import ReportReader, open_reports, send_report
from supervisors.actors.server_actor import ServerActor
from supervisors.errors import Refused
from supervisors.exchange import ROOT_DOOR
from supervisors.exits import Crash, ExitReason, NoProcess, Shutdown, is_orderly, reason_of_status
from supervisors.machine import AskStop, Effect, End, Fork, Kill, Log, Machine, Ready, State
from supervisors.process.birth import (
    assert_single_thread,
    closing_in_child,
    open_descriptors,
    restore_fatal_signals,
)
from supervisors.process.identity import kill_group
from supervisors.process.procfs import read_stat
from supervisors.spec import ChildSpec, Supervisor
from supervisors.wire.doorway import Door, Visitor
from supervisors.wire.vocabulary import AwaitDown, ChildInfo, GetStatistics, StatusReport, StopTree, WhichChildren

__all__ = ["SupervisorActor"]

TICK = 0.25
"""Seconds between two looks at the clock and at the children's states; a stopped child is found within two of them."""
STILL_STOPPED = 2
"""Looks that must find a child stopped before it counts: a debugger or a job control signal may stop it for a moment."""
_REMEMBERED = 1024
"""Ended incarnations whose reasons are remembered, for callers that ask a little later."""

_LEVELS = {
    "child_started": logging.INFO,
    "child_exited": logging.WARNING,
    "child_restarting": logging.WARNING,
    "intensity_reached": logging.ERROR,
}


@dataclass(slots=True)
class _Process:
    """One living child, as the kernel and Thespian know it."""

    id: str
    incarnation: int
    address: Any
    process: BaseProcess
    pidfd: int
    reports: ReportReader
    said: ExitReason | None = None
    stopped: int = 0


class SupervisorActor(Actor):
    """Thespian's side. `receiveMessage` never raises, and returns the watch each time, as Thespian wants it."""

    def __init__(self) -> None:
        super().__init__()
        restore_fatal_signals()
        record = take()
        os.setpgid(0, 0)
        gc.enable()
        logs.restore()
        self._life = _Life(record, self)
        send_report(record.report, {"born": os.getpid()})

    def receiveMessage(self, message: Any, sender: Any) -> Any:  # noqa: N802, ARG002 - Thespian's name and signature
        """Called in the only thread, for each message, timer and readiness of the door."""
        life = self._life
        try:
            if isinstance(message, Begin):
                life.begin()
            elif isinstance(message, StopActor):
                life.stop(Shutdown(message.detail))
            elif isinstance(message, ActorExitRequest):
                life.abandon(Shutdown("SIGTERM"))
            elif isinstance(message, WakeupMessage):
                life.tick()
            # Whatever the message was (ChildActorExited among them), it is a moment to look at what has happened.
            life.look()
        except BaseException as error:  # noqa: BLE001 - crash means crash; Thespian would run the handler again
            life.abandon(Crash.from_exception(error))
        return ThespianWatch([life.door.fileno()])


class _Life:
    """The supervisor's side: children, door, clock."""

    def __init__(self, record: BirthRecord, actor: SupervisorActor) -> None:
        assert isinstance(record.spec, Supervisor)  # noqa: S101 - servers have the other actor
        self._record = record
        self._actor = actor
        self._spec = record.spec
        self._log = logging.getLogger(record.place)
        # Incarnations must never repeat in one place, not even after this supervisor's own restart: they count from now.
        self._machine = Machine(record.spec, first_incarnation=time.monotonic_ns() // 1000)
        self._processes: dict[str, _Process] = {}
        self._ended: dict[tuple[str, int], ExitReason] = {}
        self._waiting: dict[tuple[str, int], list[tuple[Visitor, int]]] = {}
        self._born = time.monotonic()
        self._asked = False
        self._wake_at = 0.0
        self._looked = 0.0
        root = not record.door
        name = ROOT_DOOR if root else f"d{os.getpid()}"
        self.door = Door(str(record.surroundings.directory / name), self._answer)

    # -- events in ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._carry_out(self._machine.begin())
        self._wake_later(TICK)

    def stop(self, reason: ExitReason) -> None:
        self._carry_out(self._machine.stop(reason, time.monotonic()))

    def look(self) -> None:
        """Serve the door: calls, deaths, reports. Does not wait."""
        self.door.poll()

    def tick(self) -> None:
        now = time.monotonic()
        if now < self._wake_at:
            return
        self._carry_out(self._machine.tick(now))
        if now - self._looked >= TICK / 2:
            self._looked = now
            self._find_stopped()
        next_deadline = self._machine.next_deadline()
        self._wake_later(TICK if next_deadline is None else min(TICK, max(0.005, next_deadline - now)))

    def _wake_later(self, seconds: float) -> None:
        self._wake_at = time.monotonic() + seconds
        # A little late rather than a little early: an early one would find nothing due.
        self._actor.wakeupAfter(timedelta(seconds=seconds + 0.001))

    def _find_stopped(self) -> None:
        """A process that SIGSTOP stopped is alive but will never run again by itself: nobody hears of it but `/proc`."""
        for known in list(self._processes.values()):
            stat = read_stat(known.process.pid or 0)
            known.stopped = known.stopped + 1 if stat is not None and stat.stopped else 0
            if known.stopped == STILL_STOPPED:
                self._carry_out(self._machine.stalled(known.id, "it was stopped by a signal and did not run any more"))

    # -- effects out -------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Fork(id_):
                    self._fork(id_)
                case AskStop(id_):
                    known = self._processes.get(id_)
                    if known is not None:
                        self._actor.send(known.address, StopActor(f"by {self._record.place}"))
                        self._wake_soon()
                case Kill(id_):
                    self._kill(id_)
                case Log(event, id_, reason):
                    self._report(event, id_, reason)
                case Ready():
                    send_report(self._record.report, {"ready": self.door.path})
                case End(reason):
                    self._leave(reason)

    def _wake_soon(self) -> None:
        next_deadline = self._machine.next_deadline()
        if next_deadline is not None and next_deadline < self._wake_at:
            self._wake_later(max(0.005, next_deadline - time.monotonic()))

    def _fork(self, id_: str) -> None:
        child = self._machine.children[id_]
        assert_single_thread()
        ours, theirs = open_reports()
        private = open_descriptors() - self._record.surroundings.kept - {theirs}
        record = BirthRecord(
            surroundings=self._record.surroundings,
            spec=child.spec,
            place=f"{self._record.place}/{id_}",
            incarnation=child.incarnation,
            door=self.door.path,
            report=theirs,
        )
        kind = ServerActor if isinstance(child.spec, ChildSpec) else SupervisorActor
        with hand_over(record), closing_in_child(private):
            address = self._actor.createActor(kind)
        os.close(theirs)
        process = self._newborn(address)
        if process is None or process.pid is None:
            os.close(ours)
            reason = Crash("ForkFailed", "the process could not be created; see the limits of this machine")
            self._machine.forked(id_, time.monotonic())
            self._carry_out(self._machine.exited(id_, child.incarnation, reason, time.monotonic()))
            return
        known = _Process(id_, child.incarnation, address, process, os.pidfd_open(process.pid), ReportReader(ours))
        self._processes[id_] = known
        child.pid = process.pid
        self._machine.forked(id_, time.monotonic())
        self.door.watch(known.reports.descriptor, lambda _events: self._read(known))
        self.door.watch(known.pidfd, lambda _events: self._bury(known))
        if kind is SupervisorActor:
            self._actor.send(address, Begin())

    def _newborn(self, address: Any) -> BaseProcess | None:
        """The process behind an address that `createActor` just gave. Thespian keeps it for its own care of children."""
        children = getattr(self._actor._myRef, "_child_procs", [])
        for info in reversed(children):
            if info.childAddr == address:
                return info.childProc  # type: ignore[no-any-return]
        return None

    def _kill(self, id_: str) -> None:
        known = self._processes.get(id_)
        if known is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(known.pidfd, signal.SIGKILL)

    # -- a child's word and end ----------------------------------------------------------------------------------------

    def _read(self, known: _Process) -> None:
        for report in known.reports.read():
            if "ready" in report:
                child = self._machine.children.get(known.id)
                if child is not None and child.incarnation == known.incarnation:
                    child.address = report["ready"]
                self._carry_out(self._machine.ready(known.id, known.incarnation, time.monotonic()))
            if "exit" in report:
                known.said = report["exit"]

    def _bury(self, known: _Process) -> None:
        """The process has ended: its last word, its status, what it left behind; then the machine decides."""
        if self._processes.get(known.id) is not known:
            return
        del self._processes[known.id]
        self._read(known)
        self.door.unwatch(known.pidfd)
        self.door.unwatch(known.reports.descriptor)
        os.close(known.pidfd)
        known.reports.close()
        known.process.join(0)  # reaps it, unless Thespian has
        status = known.process.exitcode
        reason = known.said or reason_of_status(0 if status is None else status)
        pid = known.process.pid or 0
        left = kill_group(pid, self._record.surroundings.token)
        if left:
            self._log.warning("killed %s, which %s had started", left, known.id)
        child = self._machine.children.get(known.id)
        for path in {child.address if child else "", str(self._record.surroundings.directory / f"s{pid}")} - {""}:
            if not path.endswith("/registry"):
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108
        effects = self._machine.exited(known.id, known.incarnation, reason, time.monotonic())
        self._remember(known, reason if child is None or child.last_reason is None else child.last_reason)
        self._carry_out(effects)

    def _remember(self, known: _Process, reason: ExitReason) -> None:
        key = (known.id, known.incarnation)
        told = Crash(reason.error, reason.message) if isinstance(reason, Crash) else reason
        self._ended[key] = told
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        for visitor, id_ in self._waiting.pop(key, ()):
            visitor.reply(id_, told)

    def _report(self, event: str, id_: str, reason: ExitReason | None) -> None:
        place = self._record.place
        child = self._machine.children.get(id_)
        orderly = reason is not None and is_orderly(reason)
        level = logging.INFO if event == "child_exited" and orderly else _LEVELS[event]
        fields: dict[str, object] = {"supervisor": place, "child": id_, "context": self._machine.phase}
        if reason is not None:
            fields["reason"] = reason
        if event == "child_restarting" and child is not None:
            fields["restarts"] = child.restarts
        logs.event(self._log, level, event, **fields)
        if event == "child_exited" and isinstance(reason, Crash) and reason.traceback:
            self._log.error("%s/%s crashed:\n%s", place, id_, reason.traceback.rstrip())

    def _leave(self, reason: ExitReason) -> None:
        """Every child is down."""
        self.door.close()
        send_report(self._record.report, {"exit": reason, "asked": self._asked})
        logging.shutdown()
        os._exit(0 if is_orderly(reason) else 1)

    def abandon(self, reason: ExitReason) -> None:
        """End at once: the children die with this process (PR_SET_PDEATHSIG); their supervisor's supervisor decides."""
        if isinstance(reason, Crash):
            self._log.error("the supervisor itself crashed: %s\n%s", reason, reason.traceback)
        for id_ in list(self._processes):
            self._kill(id_)
        self._leave(reason)

    # -- calls through the door ----------------------------------------------------------------------------------------

    def _answer(self, visitor: Visitor, id_: int, message: Any) -> None:
        match message:
            case WhichChildren() | GetStatistics():
                visitor.reply(id_, self._status())
            case AwaitDown(child, incarnation):
                self._await_down(visitor, id_, (child, incarnation))
            case StopTree() if not self._record.door:
                visitor.reply(id_, True)
                self._asked = True
                self.stop(Shutdown("asked to"))
            case _:
                problem = f"a supervisor does not handle {message!r:.200}"
                raise Refused(problem, "unhandled")

    def _await_down(self, visitor: Visitor, id_: int, key: tuple[str, int]) -> None:
        if key in self._ended:
            visitor.reply(id_, self._ended[key])
            return
        known = self._processes.get(key[0])
        if known is None or known.incarnation != key[1]:
            visitor.reply(id_, NoProcess())
            return
        # Those who have gone are forgotten here, so that a long life gathers no long list.
        waiting = [each for each in self._waiting.get(key, ()) if not each[0].gone]
        self._waiting[key] = [*waiting, (visitor, id_)]

    def _status(self) -> StatusReport:
        now = time.monotonic()
        machine = self._machine
        return StatusReport(
            place=self._record.place,
            pid=os.getpid(),
            phase=machine.phase.value,
            strategy=self._spec.strategy.value,
            max_restarts=self._spec.max_restarts,
            max_seconds=self._spec.max_seconds,
            uptime=now - self._born,
            children=[
                ChildInfo(
                    id=child.spec.id,
                    type=child.spec.type.value,
                    name=child.spec.name,
                    state=child.state.value,
                    pid=child.pid,
                    incarnation=child.incarnation,
                    path=child.address,
                    restarts=child.restarts,
                    last_reason=_without_traceback(child.last_reason),
                    uptime=now - child.since if child.state in (State.RUNNING, State.STOPPING) else 0.0,
                )
                for child in machine.children.values()
            ],
        )


def _without_traceback(reason: ExitReason | None) -> ExitReason | None:
    return Crash(reason.error, reason.message) if isinstance(reason, Crash) else reason
