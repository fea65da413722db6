"""Every error that `supervisors` raises, drawn as a tree.

::

    SupervisorsError
    ├── BadSpec             a child spec or an option contradicts itself (also a ValueError)
    ├── CallFailed          a call, cast or stream ended without its answer
    │   ├── CallTimeout     the deadline passed first (also a TimeoutError)
    │   ├── ActorDown       the server ended, or was not there; carries its exit reason
    │   ├── Overloaded      a mailbox or queue is full; nothing was executed
    │   └── Refused         the server said no: an expected answer, not a crash
    │       └── NotRegistered   the registry's no: no server has that name
    ├── StartFailed         a child, a tree or a node did not come up
    ├── NodeError           the node process
    │   ├── NodeDown        the node ended and is not coming back
    │   ├── ClientClosed    the client was closed, or was never opened
    │   ├── ClientForked    the client was made in another process, before a fork
    │   ├── WrongLoop       the client was opened in another event loop
    │   └── ForkRefused     this process has more than one thread, so it may not fork
    └── WireError           bytes and values
        ├── UnsupportedValue   a value of that type cannot travel
        ├── UnknownWireType    a registered name that this process does not know
        ├── FrameTooLarge      a frame is over the limit
        └── GarbledFrame       bytes that are no frame

Each error carries its subject as attributes and is rebuilt from its `args`, so that it survives the wire unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisors.exits import ExitReason

__all__ = [
    "ActorDown",
    "BadSpec",
    "CallFailed",
    "CallTimeout",
    "ClientClosed",
    "ClientForked",
    "ForkRefused",
    "FrameTooLarge",
    "GarbledFrame",
    "NodeDown",
    "NodeError",
    "NotRegistered",
    "Overloaded",
    "Refused",
    "StartFailed",
    "SupervisorsError",
    "UnknownWireType",
    "UnsupportedValue",
    "WireError",
    "WrongLoop",
]


class SupervisorsError(Exception):
    """Base of every error of this package. `args` are exactly the arguments of `__init__`."""


class BadSpec(SupervisorsError, ValueError):
    """Raised when an option is refused: at definition time, in the process that defines it."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what = what
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.what}: {self.problem}"


class CallFailed(SupervisorsError):
    """Base of the ways in which a call ends without its reply; raised in the caller."""


class CallTimeout(CallFailed, TimeoutError):
    """Raised when the deadline of a call passed first. The server may have executed it, or may yet."""

    def __init__(self, target: str, timeout: float) -> None:
        super().__init__(target, timeout)
        self.target = target
        self.timeout = timeout

    def __str__(self) -> str:
        return f"{self.target} did not answer within {self.timeout:.3g} s"


class ActorDown(CallFailed):
    """Raised when the server ended before it answered, or had ended before; `reason` says how."""

    def __init__(self, target: str, reason: ExitReason) -> None:
        super().__init__(target, reason)
        self.target = target
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.target} is down: {self.reason}"


class Overloaded(CallFailed):
    """Raised when a bounded queue is full. The message was not executed and may be sent again later."""

    def __init__(self, target: str, limit: int) -> None:
        super().__init__(target, limit)
        self.target = target
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.target} is overloaded: {self.limit} messages are waiting already"


class Refused(CallFailed):
    """Raised by a handler to say no. The caller gets it; the server lives on: a refusal is not a crash.

    `code` is a short word for programs, `details` plain values for people.
    """

    def __init__(self, message: str, code: str = "refused", details: dict[str, Any] | None = None) -> None:
        super().__init__(message, code, details)
        self.message = message
        self.code = code
        self.details = details or {}

    def __str__(self) -> str:
        return self.message


class NotRegistered(Refused):
    """Raised when no server of the tree has that name; `known` lists close ones."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(f"no server is registered as {name!r}", "not_registered")
        self.args = (name, known)
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(map(repr, self.known))}?" if self.known else ""
        return f"no server is registered as {self.name!r}{hint}"


class StartFailed(SupervisorsError):
    """Raised when a child, or the tree it belongs to, did not come up; `reason` says why."""

    def __init__(self, child: str, reason: ExitReason) -> None:
        super().__init__(child, reason)
        self.child = child
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.child} did not start: {self.reason}"


class NodeError(SupervisorsError):
    """Base of what goes wrong with the node process or with the client's bond to it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class NodeDown(NodeError):
    """Raised when the node ended and nobody will start it again."""


class ClientClosed(NodeError):
    """Raised when a client is used before it was opened or after it was closed."""


class ClientForked(NodeError):
    """Raised when a client is used in a process forked after the client was opened."""


class WrongLoop(NodeError):
    """Raised when a client or one of its refs is used in another event loop than the one it was opened in."""


class ForkRefused(NodeError):
    """Raised in a supervisor that would fork while it has more than one thread (law of processes, 1)."""


class WireError(SupervisorsError):
    """Base of what goes wrong with bytes and values on a link."""


class UnsupportedValue(WireError, TypeError):
    """Raised in the sender, before anything is sent, for a value that cannot travel."""

    def __init__(self, path: str, type_name: str, hint: str = "") -> None:
        super().__init__(path, type_name, hint)
        self.path = path
        self.type_name = type_name
        self.hint = hint

    def __str__(self) -> str:
        hint = self.hint or "register its class with @wire_type or send plain values"
        return f"{self.path}: a value of type {self.type_name} cannot travel; {hint}"


class UnknownWireType(WireError):
    """Raised in the receiver of a registered value whose class it has not imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no class is registered as {self.name!r} in this process; import its module there"


class FrameTooLarge(WireError):
    """Raised in the sender for a message over the frame limit, in bytes; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"a frame of {self.size} bytes is over the limit of {self.limit}; send it as a stream"


class GarbledFrame(WireError):
    """Raised for bytes that are no frame or no value; `detail` says what was expected."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
