"""The decisions of a supervisor, each a pure function: who restarts, who is affected, and when it is too much.

Pure: no clock, no process. The semantics are those of OTP's `supervisor` (its reference manual, "Restart strategy" and
"Maximum restart intensity"); `machine` puts them in order, a supervisor actor carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence

from supervisors.exits import ExitReason, is_orderly
from supervisors.spec import Restart, Strategy

__all__ = ["affected", "record_restart", "should_restart", "within_intensity"]


def should_restart(restart: Restart, reason: ExitReason) -> bool:
    """Whether a running child that ended for that reason is started again."""
    match restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return not is_orderly(reason)
        case Restart.TEMPORARY:
            return False


def affected(strategy: Strategy, ids: Sequence[str], failed: str) -> tuple[str, ...]:
    """The children that are restarted when `failed` is, in start order, itself included."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return tuple(each for each in ids if each == failed)


def record_restart(times: Sequence[float], now: float, max_seconds: float) -> tuple[float, ...]:
    """The restarts that still count at `now`, this one included: those not older than `max_seconds` (inclusive, as OTP)."""
    return (*(time for time in times if now - time <= max_seconds), now)


def within_intensity(times: Sequence[float], max_restarts: int) -> bool:
    """Whether that many restarts are borne."""
    return len(times) <= max_restarts
