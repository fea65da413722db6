"""`Server`: the behaviour that users subclass. One process, one state, one message at a time.

Where it runs: an instance is made in a process of its own, inside the node, and every method is called in that process's
event loop (uvloop, in a side thread; the first thread belongs to Thespian). Handlers are coroutines, and one message is
handled at a time unless the class sets `concurrency`. Nothing else runs in that loop, so `await` freely; code that
computes for long delays only this server's own messages.

What happens when a handler raises: the server crashes. Every caller that waits gets `ActorDown` with the reason, the
supervisor gets reason and traceback, `terminate` is called, the process ends, and the supervisor decides. A handler
never runs twice for one message. To say no without crashing, raise `Refused`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from supervisors.errors import Refused
from supervisors.exits import ExitReason, Normal

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncIterator

    from supervisors.envelope import Context
    from supervisors.mailbox import Mailbox
    from supervisors.ref import Ref
    from supervisors.timers import Timer

__all__ = ["Server"]


class Server:
    """Subclass it, override what you need, and put it under a supervisor with `child(YourServer)`."""

    concurrency: ClassVar[int] = 1
    """how many calls, casts, infos and timers are handled at once; more than 1 interleaves them at every `await`"""
    mailbox_limit: ClassVar[int] = 1000
    """how many messages may wait; one more is answered with `Overloaded` and never executed"""
    stream_limit: ClassVar[int] = 256
    """how many streams may be open; each runs beside the messages, as a task of its own"""
    cancel_running: ClassVar[bool] = False
    """whether a call whose caller has gone is cancelled while it runs; one that still waits is dropped in any case"""

    _mailbox: Mailbox

    # -- to override -------------------------------------------------------------------------------------------------

    async def init(self, *args: Any, **kwargs: Any) -> None:
        """Called first, with the child spec's arguments. The server is up when it returns; an exception fails the start."""

    async def handle_call(self, message: Any) -> Any:
        """Called for each `Ref.call`; what it returns is the reply."""
        problem = f"{type(self).__qualname__} does not handle the call {message!r:.200}"
        raise Refused(problem, "unhandled")

    async def handle_cast(self, message: Any) -> None:
        """Called for each `Ref.cast`; nobody waits."""
        self.log.warning("unhandled cast: %.200r", message)

    async def handle_info(self, message: Any) -> None:
        """Called for what the system or `post` tells this server: `Down` of what it monitors, say."""
        self.log.warning("unhandled info: %.200r", message)

    async def handle_timer(self, message: Any) -> None:
        """Called when a timer that `send_after` started is due."""
        self.log.warning("unhandled timer: %.200r", message)

    def handle_stream(self, message: Any) -> AsyncIterator[Any]:
        """Called for each `Ref.stream`; an async generator, pulled only as fast as the reader gives credit."""
        problem = f"{type(self).__qualname__} does not stream {message!r:.200}"
        raise Refused(problem, "unhandled")

    async def terminate(self, reason: ExitReason) -> None:
        """Called last, when the server stops or has crashed, bounded by the child's `shutdown`. Not after SIGKILL."""

    # -- to use ------------------------------------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """This server's place in the tree: `node/supervisor/.../id`."""
        return self._mailbox.place

    @property
    def log(self) -> logging.Logger:
        """A logger named by this server's place; its lines go where all of the node's lines go."""
        return self._mailbox.log

    @property
    def context(self) -> Context:
        """Deadline, correlation id and trace context of the message that is being handled."""
        return self._mailbox.context

    def ref(self, name: str) -> Ref:
        """A reference to another server of this tree, by its registered name."""
        return self._mailbox.exchange.ref(name)

    def send_after(self, seconds: float, message: Any) -> Timer:
        """Start a timer: `handle_timer(message)` is called after that many seconds, unless `Timer.cancel()` comes first."""
        return self._mailbox.send_after(seconds, message)

    def post(self, message: Any) -> None:
        """Put a message to oneself into the mailbox: `handle_info(message)`. May be called from any thread of this process.

        Raises `Overloaded` when the mailbox is full.
        """
        self._mailbox.post(message)

    def monitor(self, target: Ref) -> None:
        """Have `handle_info(Down)` called, once, when the server behind `target` ends; at once if it is not there."""
        self._mailbox.monitor(target)

    def stop(self, reason: ExitReason | None = None) -> None:
        """End this server after the messages that are being handled, `Normal` unless told otherwise."""
        self._mailbox.stop(reason or Normal())
