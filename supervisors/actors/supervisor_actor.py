"""The actor that hosts one supervisor: it turns what happens into events of the `Machine` and carries its effects out.

It has one thread, because it forks. In it, Thespian delivers: `Begin`, `StopActor`, timers, and the readiness of the one
descriptor it watches, the door's. Behind that door are the supervisor's link, a pidfd and a report pipe of each child.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from datetime import timedelta
from typing import Any, get_args

from thespian.actors import Actor, ActorExitRequest, ThespianWatch, WakeupMessage

from supervisors.actors import logs
from supervisors.actors.birth_record import BirthRecord, take
from supervisors.actors.messages import Begin, StopActor
from supervisors.actors.offspring import Offspring, bear, tidy
from supervisors.actors.report import send_exit, send_report
from supervisors.actors.server_actor import ServerActor
from supervisors.actors.status import status_of
from supervisors.errors import Refused
from supervisors.exchange import ROOT_DOOR
from supervisors.exits import Crash, ExitReason, NoProcess, Shutdown, for_callers, is_orderly
from supervisors.machine import AskStop, Effect, End, Fork, Kill, Log, Machine, Ready
from supervisors.process.birth import restore_fatal_signals
from supervisors.process.stopped import StoppedLook
from supervisors.spec import ChildSpec, Supervisor
from supervisors.wire.control_plane import installed
from supervisors.wire.doorway import Door, Visitor
from supervisors.wire.vocabulary import AwaitDown, GetStatistics, StopTree, WhichChildren

__all__ = ["SupervisorActor"]

TICK = 0.25
"""Seconds between two looks at the clock and at the children's states; a stopped child is found within two of them."""
_SOON = 0.005
"""Seconds to the next turn after something that must not be done at once, so that no failure becomes a loop in place."""
_REMEMBERED = 1024
"""Ended incarnations whose reasons are remembered, for callers that ask a little later."""

_LEVELS = {
    "child_started": logging.INFO,
    "child_exited": logging.WARNING,
    "child_restarting": logging.WARNING,
    "intensity_reached": logging.ERROR,
}


class SupervisorActor(Actor):
    """Thespian's side. `receiveMessage` never raises, and returns the watch each time, as Thespian wants it."""

    def __init__(self) -> None:
        super().__init__()
        restore_fatal_signals()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # its children are watched by pidfd; Thespian would reap them
        record = take()
        os.setpgid(0, 0)
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
            # Whatever the message was, it is a moment to look at what has happened.
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
        self._log = logging.getLogger(record.place)
        # Incarnations must never repeat in one place, not even after this supervisor's own restart: they count from now.
        self._machine = Machine(record.spec, first_incarnation=time.monotonic_ns() // 1000)
        self._living: dict[str, Offspring] = {}
        self._stillborn: list[tuple[str, int, ExitReason]] = []
        self._stopped = StoppedLook()
        self._untidy = False
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
        stillborn, self._stillborn = self._stillborn, []
        for id_, incarnation, reason in stillborn:
            self._carry_out(self._machine.exited(id_, incarnation, reason, now))
        self._carry_out(self._machine.tick(now))
        if now - self._looked >= TICK / 2:
            self._looked = now
            self._find_stopped()
            if self._untidy:
                self._untidy = False
                tidy(self._record.surroundings)
        next_deadline = now + _SOON if self._stillborn else self._machine.next_deadline()
        self._wake_later(TICK if next_deadline is None else min(TICK, max(_SOON, next_deadline - now)))

    def _wake_later(self, seconds: float) -> None:
        self._wake_at = time.monotonic() + seconds
        # A little late rather than a little early: an early one would find nothing due.
        self._actor.wakeupAfter(timedelta(seconds=seconds + 0.001))

    def _wake_by(self, when: float) -> None:
        if when < self._wake_at:
            self._wake_later(max(_SOON, when - time.monotonic()))

    def _find_stopped(self) -> None:
        """A process that SIGSTOP stopped is alive but will never run again by itself: nobody hears of it but `/proc`."""
        ids = {each.pid: each.id for each in self._living.values()}
        for pid in self._stopped.look(ids):
            self._carry_out(self._machine.stalled(ids[pid], "it was stopped by a signal and did not run any more"))

    # -- effects out -------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Fork(id_):
                    self._fork(id_)
                case AskStop(id_):
                    known = self._living.get(id_)
                    if known is not None:
                        self._actor.send(known.address, StopActor(f"by {self._record.place}"))
                        self._wake_by(self._machine.next_deadline() or self._wake_at)
                case Kill(id_):
                    known = self._living.get(id_)
                    if known is not None:
                        known.kill()
                case Log(event, id_, reason):
                    self._report(event, id_, reason)
                case Ready():
                    send_report(self._record.report, {"ready": self.door.path})
                case End(reason):
                    self._leave(reason)

    def _fork(self, id_: str) -> None:
        child = self._machine.children[id_]
        kind = ServerActor if isinstance(child.spec, ChildSpec) else SupervisorActor
        try:
            known = bear(
                self._actor,
                kind,
                surroundings=self._record.surroundings,
                spec=child.spec,
                place=f"{self._record.place}/{id_}",
                incarnation=child.incarnation,
                door=self.door.path,
            )
        except OSError as error:  # no process, no descriptor, no memory: that is the child's failure, not this supervisor's
            reason = Crash("ForkFailed", f"{type(error).__name__}: {error}")
            self._stillborn.append((id_, child.incarnation, reason))
            self._wake_by(time.monotonic() + _SOON)
            return
        self._living[id_] = known
        child.pid = known.pid
        self._machine.forked(id_, time.monotonic())
        self.door.watch(known.reports.descriptor, lambda _events: self._read(known))
        self.door.watch(known.pidfd, lambda _events: self._bury(known))
        if kind is SupervisorActor:
            self._actor.send(known.address, Begin())

    # -- a child's word and end ----------------------------------------------------------------------------------------

    def _read(self, known: Offspring) -> None:
        for report in known.reports.read():
            if isinstance(report.get("ready"), str):
                child = self._machine.children.get(known.id)
                if child is not None and child.incarnation == known.incarnation:
                    child.address = report["ready"]
                self._carry_out(self._machine.ready(known.id, known.incarnation, time.monotonic()))
            if isinstance(report.get("exit"), get_args(ExitReason)):
                known.said = report["exit"]

    def _bury(self, known: Offspring) -> None:
        """The process has ended: its last word, its status, what it left behind; then the machine decides."""
        # An event may be an old one, of a descriptor whose number was given again since: the kernel is asked.
        if self._living.get(known.id) is not known or not known.has_ended():
            return
        del self._living[known.id]
        self._read(known)
        self.door.unwatch(known.pidfd)
        self.door.unwatch(known.reports.descriptor)
        reason = known.bury(self._actor)
        if known.left:
            self._log.warning("killed %s, which %s had started", known.left, known.id)
        child = self._machine.children.get(known.id)
        if known.left or (child is not None and isinstance(child.spec, Supervisor)):
            self._untidy = True  # what was below it dies at this moment; what stood for that is removed a little later
        effects = self._machine.exited(known.id, known.incarnation, reason, time.monotonic())
        self._remember(known, reason if child is None or child.last_reason is None else child.last_reason)
        self._carry_out(effects)

    def _remember(self, known: Offspring, reason: ExitReason) -> None:
        key = (known.id, known.incarnation)
        told = for_callers(reason)
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
        try:
            self.door.close()
            send_exit(self._record.report, {"exit": reason, "asked": self._asked})
            logging.shutdown()
        finally:
            os._exit(0 if is_orderly(reason) else 1)

    def abandon(self, reason: ExitReason) -> None:
        """End at once: the children die with this process (PR_SET_PDEATHSIG); their supervisor's supervisor decides."""
        try:
            if isinstance(reason, Crash):
                self._log.error("the supervisor itself crashed: %s\n%s", reason, reason.traceback)
            for known in self._living.values():
                known.kill()
        finally:
            self._leave(reason)

    # -- calls through the door ----------------------------------------------------------------------------------------

    def _answer(self, visitor: Visitor, id_: int, message: Any) -> None:
        """Called by the door for each call. Raises `Refused` for what makes no sense here; it is the caller's error."""
        match message:
            case WhichChildren() | GetStatistics():
                status = status_of(self._machine, self._record.place, os.getpid(), self._born, time.monotonic(), _node_counters())
                visitor.reply(id_, status)
            case AwaitDown(str(child), int(incarnation)):
                self._await_down(visitor, id_, (child, incarnation))
            case StopTree() if not self._record.door:
                visitor.reply(id_, True)
                self._asked = True
                self.stop(Shutdown("asked to"))
            case _:
                problem = f"a supervisor does not handle a {type(message).__name__}"
                raise Refused(problem, "unhandled")

    def _await_down(self, visitor: Visitor, id_: int, key: tuple[str, int]) -> None:
        if key in self._ended:
            visitor.reply(id_, self._ended[key])
            return
        known = self._living.get(key[0])
        if known is None or known.incarnation != key[1]:
            visitor.reply(id_, NoProcess())
            return
        # Those who have gone are forgotten here, so that a long life gathers no long list.
        waiting = [each for each in self._waiting.get(key, ()) if not each[0].gone]
        self._waiting[key] = [*waiting, (visitor, id_)]


def _node_counters() -> dict[str, int]:
    """What all processes of the node have counted together: what the control plane refused, and why; boots."""
    counters = installed().counters
    return {} if counters is None else dict(counters.snapshot())
