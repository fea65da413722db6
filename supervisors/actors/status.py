"""What a supervisor says of itself and its children when it is asked. Pure."""

from __future__ import annotations

from supervisors.exits import for_callers
from supervisors.machine import Machine, State
from supervisors.wire.vocabulary import ChildInfo, StatusReport

__all__ = ["status_of"]


def status_of(  # noqa: PLR0913, PLR0917 - what a report says
    machine: Machine, place: str, pid: int, born: float, now: float, counters: dict[str, int]
) -> StatusReport:
    """The report on a supervisor at the time `now`, seconds of the same clock as `born`."""
    spec = machine.spec
    return StatusReport(
        place=place,
        pid=pid,
        phase=machine.phase.value,
        strategy=spec.strategy.value,
        max_restarts=spec.max_restarts,
        max_seconds=spec.max_seconds,
        uptime=now - born,
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
                last_reason=None if child.last_reason is None else for_callers(child.last_reason),
                uptime=now - child.since if child.state in (State.RUNNING, State.STOPPING) else 0.0,
            )
            for child in machine.children.values()
        ],
        counters=counters,
    )
