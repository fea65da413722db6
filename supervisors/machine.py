"""The life of a supervisor as a pure state machine: events in, effects out.

Pure: it owns no process and reads no clock. The supervisor actor (and any other runtime) turns what happens into events,
passes the time with each, and carries the returned effects out in order. `supervisors.supervisor` is the specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from supervisors.exits import Crash, ExitReason, Killed, Shutdown, StartTimeout
from supervisors.spec import BRUTAL_KILL, INFINITY, ChildSpec, Restart, Supervisor
from supervisors.strategy import affected, record_restart, should_restart, within_intensity

__all__ = ["AskStop", "Child", "Effect", "End", "Fork", "Kill", "Log", "Machine", "Phase", "Ready", "State"]

_SIGKILL = 9


class Phase(StrEnum):
    """Where a supervisor is in its life; it only ever moves down this list."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class State(StrEnum):
    """Where a child is in its life."""

    WAITING = "waiting"
    """not started yet: its turn has not come"""
    STARTING = "starting"
    """forked, not ready yet"""
    RUNNING = "running"
    STOPPING = "stopping"
    """asked to stop, or killed; its end has not been seen yet"""
    DOWN = "down"
    """ended, and not to be started again"""


@dataclass(slots=True)
class Child:
    """What the supervisor knows of one child. `pid`, `address` and `since` belong to the actor that carries effects out."""

    spec: ChildSpec | Supervisor
    state: State = State.WAITING
    incarnation: int = 0
    restarts: int = 0
    last_reason: ExitReason | None = None
    deadline: float | None = None
    verdict: ExitReason | None = None
    """why the supervisor killed it, when it did"""
    pid: int = 0
    address: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Fork:
    """Start the child: fork it, then report `forked`, later `ready` or `exited`."""

    id: str


@dataclass(frozen=True, slots=True)
class AskStop:
    """Ask the child to stop in order."""

    id: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL the child."""

    id: str


@dataclass(frozen=True, slots=True)
class Log:
    """Something an operator wants to know: one of the events `child_started`, `child_exited`, `child_restarting`, ..."""

    event: str
    id: str
    reason: ExitReason | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Every child is up: tell the supervisor's own supervisor."""


@dataclass(frozen=True, slots=True)
class End:
    """Every child is down: end with this reason. The last effect of a machine."""

    reason: ExitReason


Effect: TypeAlias = Fork | AskStop | Kill | Log | Ready | End


class Machine:
    """The state of one supervisor. Every method is an event: called in the supervisor's only thread, returns the effects."""

    def __init__(self, spec: Supervisor, first_incarnation: int = 1) -> None:
        self.spec = spec
        self.phase = Phase.STARTING
        self.children: dict[str, Child] = {each.id: Child(each) for each in spec.children}
        self.restart_times: tuple[float, ...] = ()
        self.end_reason: ExitReason | None = None
        self._next_incarnation = first_incarnation

    # -- events ------------------------------------------------------------------------------------------------------

    def begin(self) -> list[Effect]:
        """The supervisor itself has been born: start its children, one after the other."""
        return self._start_next()

    def forked(self, id_: str, now: float) -> None:
        """The child has a process now; its start deadline runs."""
        child = self.children[id_]
        child.since = now
        child.deadline = now + child.spec.start_timeout

    def ready(self, id_: str, incarnation: int, now: float) -> list[Effect]:
        """The child says that it is up."""
        child = self.children.get(id_)
        if child is None or child.incarnation != incarnation or child.state is not State.STARTING:
            return []  # the word of one that is being killed, or was replaced
        child.state, child.deadline, child.since = State.RUNNING, None, now
        effects: list[Effect] = [Log("child_started", id_)]
        return effects + self._start_next() if self.phase is Phase.STARTING else effects

    def exited(self, id_: str, incarnation: int, reason: ExitReason, now: float) -> list[Effect]:
        """The child's process has ended."""
        child = self.children.get(id_)
        if child is None or child.incarnation != incarnation or child.state in (State.WAITING, State.DOWN):
            return []
        if child.verdict is not None and isinstance(reason, Killed):
            reason = child.verdict  # it was this supervisor's own kill; it knows better why than the exit status
        child.verdict = None
        was, child.state = child.state, State.DOWN
        child.deadline, child.last_reason, child.pid = None, reason, 0
        effects: list[Effect] = [Log("child_exited", id_, reason)]
        if self.phase is Phase.STOPPING:
            self._forget_temporary(child)
            return effects + self._stop_next(now)
        if self.phase is Phase.STARTING:
            failure = Shutdown(f"child {id_!r} did not start: {reason}")
            return effects + self._stop(failure, now)
        # A child that was being (re)started has to come up, whatever its reason; OTP tries such a one again, too.
        if was is State.STARTING or should_restart(child.spec.restart, reason):
            return effects + self._restart(id_, reason, now)
        self._forget_temporary(child)
        return effects

    def stalled(self, id_: str, detail: str) -> list[Effect]:
        """The child's process does not run any more, though it lives (SIGSTOP): it is killed and so replaced."""
        return self._kill(self.children[id_], Killed(_SIGKILL, detail))

    def stop(self, reason: ExitReason, now: float) -> list[Effect]:
        """The supervisor itself is to stop: its children stop in reverse order, then it ends with that reason."""
        return self._stop(reason, now) if self.phase in (Phase.STARTING, Phase.RUNNING) else []

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: whoever missed a deadline is killed."""
        effects: list[Effect] = []
        for child in self.children.values():
            if child.deadline is None or now < child.deadline:
                continue
            child.deadline = None
            if child.state is State.STARTING:
                effects += self._kill(child, StartTimeout(child.spec.start_timeout))
            elif child.state is State.STOPPING:
                effects += self._kill(child, Killed(_SIGKILL, f"did not stop within {child.spec.shutdown} s"))
        return effects

    def next_deadline(self) -> float | None:
        """When `tick` has something to do next, or None."""
        return min((child.deadline for child in self.children.values() if child.deadline is not None), default=None)

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _fork(self, child: Child) -> Fork:
        child.incarnation, child.state, child.verdict = self._next_incarnation, State.STARTING, None
        self._next_incarnation += 1
        return Fork(child.spec.id)

    def _start_next(self) -> list[Effect]:
        """Start the first child whose turn has not come; with none left, the supervisor is up."""
        if any(child.state is State.STARTING for child in self.children.values()):
            return []
        for child in self.children.values():
            if child.state is State.WAITING:
                return [self._fork(child)]
        self.phase = Phase.RUNNING
        return [Ready()]

    def _restart(self, id_: str, reason: ExitReason, now: float) -> list[Effect]:
        self.restart_times = record_restart(self.restart_times, now, self.spec.max_seconds)
        if not within_intensity(self.restart_times, self.spec.max_restarts):
            limit = f"{self.spec.max_restarts} restarts in {self.spec.max_seconds:g} s"
            why = Shutdown(f"restart intensity reached ({limit}); last: {id_!r}, {_in_short(reason)}")
            return [Log("intensity_reached", id_, reason), *self._stop(why, now)]
        effects: list[Effect] = []
        for each in affected(self.spec.strategy, list(self.children), id_):
            child = self.children[each]
            child.restarts += 1
            effects += [Log("child_restarting", each, reason), self._fork(child)]
        return effects

    def _stop(self, reason: ExitReason, now: float) -> list[Effect]:
        self.phase, self.end_reason = Phase.STOPPING, reason
        return self._stop_next(now)

    def _stop_next(self, now: float) -> list[Effect]:
        """Stop the last child that still lives; with none left, the supervisor ends."""
        for child in reversed(self.children.values()):
            match child.state:
                case State.STOPPING:
                    return []
                case State.STARTING | State.RUNNING if child.spec.shutdown == BRUTAL_KILL:
                    return self._kill(child, Killed(_SIGKILL, "brutal_kill"))
                case State.STARTING | State.RUNNING:
                    # One that starts is asked, too: it may have a name and answer already. Its start deadline holds on.
                    child.state = State.STOPPING
                    if child.spec.shutdown != INFINITY:
                        child.deadline = now + float(child.spec.shutdown)
                    return [AskStop(child.spec.id)]
                case _:
                    continue
        self.phase = Phase.ENDED
        assert self.end_reason is not None  # noqa: S101 - set by every way into STOPPING
        return [End(self.end_reason)]

    def _kill(self, child: Child, verdict: ExitReason) -> list[Effect]:
        child.state, child.verdict, child.deadline = State.STOPPING, verdict, None
        return [Kill(child.spec.id)]

    def _forget_temporary(self, child: Child) -> None:
        """OTP: the spec of a temporary child goes with its process."""
        if child.spec.restart is Restart.TEMPORARY:
            del self.children[child.spec.id]


def _in_short(reason: ExitReason) -> str:
    return f"crash ({reason.error}: {reason.message[:200]})" if isinstance(reason, Crash) else str(reason)
