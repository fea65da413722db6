"""Exit reasons are values: why a process of the tree ended.

Pure. A reason is made once, in the process that ended or in the supervisor that saw it end, and then travels
unchanged: into the supervisor's decision, into `ActorDown.reason` of every waiting caller, into the log and the tree.
"""

from __future__ import annotations

import signal as _signal
import traceback as _traceback
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Crash",
    "ExitReason",
    "Exited",
    "Killed",
    "Lost",
    "NoProcess",
    "Normal",
    "Shutdown",
    "StartTimeout",
    "for_callers",
    "is_orderly",
    "reason_of_status",
]


@dataclass(frozen=True, slots=True)
class Normal:
    """The server stopped itself, its work done."""

    def __str__(self) -> str:
        return "normal"


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Its supervisor stopped it, or a supervisor gave up; `detail` says which."""

    detail: str = ""

    def __str__(self) -> str:
        return f"shutdown ({self.detail})" if self.detail else "shutdown"


@dataclass(frozen=True, slots=True)
class Crash:
    """Its code raised: the exception's class and text, and the traceback for the supervisor's log."""

    error: str
    message: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        return f"crash ({self.error}: {self.message})" if self.message else f"crash ({self.error})"

    @classmethod
    def from_exception(cls, error: BaseException) -> Crash:
        """The reason of an exception, with its formatted traceback. Called where it was caught."""
        text = "".join(_traceback.format_exception(error))
        try:
            message = str(error)
        except Exception:  # noqa: BLE001 - a crash must not fail to be told because the exception itself is broken
            message = "its text could not be made"
        return cls(type(error).__qualname__, _that_travels(message[:2000]), _that_travels(text[-20_000:]))


@dataclass(frozen=True, slots=True)
class Killed:
    """A signal ended the process. `detail` says who sent it, when that is known (a missed stop deadline, say)."""

    signal: int
    detail: str = ""

    def __str__(self) -> str:
        try:
            name = _signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        return f"killed by {name} ({self.detail})" if self.detail else f"killed by {name}"


@dataclass(frozen=True, slots=True)
class Exited:
    """The process called exit by itself with that status, and reported nothing."""

    status: int

    def __str__(self) -> str:
        return f"exited with status {self.status}"


@dataclass(frozen=True, slots=True)
class StartTimeout:
    """It did not say that it was ready within its start deadline, and was killed."""

    seconds: float

    def __str__(self) -> str:
        return f"not ready within {self.seconds:.3g} s"


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody is left who could know: its supervisor, its node or the link to them went first."""

    what: str = ""

    def __str__(self) -> str:
        return f"lost ({self.what})" if self.what else "lost"


@dataclass(frozen=True, slots=True)
class NoProcess:
    """There was no such process to begin with."""

    def __str__(self) -> str:
        return "no such process"


def _that_travels(text: str) -> str:
    """The text without what UTF-8 does not have: half a surrogate, out of a file name, say."""
    return text.encode(errors="backslashreplace").decode()


ExitReason: TypeAlias = Normal | Shutdown | Crash | Killed | Exited | StartTimeout | Lost | NoProcess


def for_callers(reason: ExitReason) -> ExitReason:
    """What callers are told. The traceback is for the supervisor, not for them: it may quote what they must not see."""
    return Crash(reason.error, reason.message) if isinstance(reason, Crash) else reason


def is_orderly(reason: ExitReason) -> bool:
    """Whether a `transient` child that ended so stays down: it finished, or was told to."""
    return isinstance(reason, Normal | Shutdown)


def reason_of_status(status: int) -> ExitReason:
    """The reason in a bare exit status, as `multiprocessing.Process.exitcode` gives it (negative: a signal)."""
    if status < 0:
        return Killed(-status)
    return Normal() if status == 0 else Exited(status)
