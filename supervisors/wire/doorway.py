"""The door of a supervisor: its link, served without a thread and without a loop.

A supervisor forks, so it has one thread, and that thread belongs to Thespian. Thespian can watch one more descriptor: it
gets the door's epoll, in which the door keeps its listening socket, its connections, and whatever else the supervisor
wants to hear of (pidfds, report pipes). Every method is called in that one thread and none of them waits.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from supervisors.errors import Refused, WireError
from supervisors.wire import frames
from supervisors.wire.frame_decoder import Fault, FrameDecoder
from supervisors.wire.frames import Kind
from supervisors.wire.order import Arrivals
from supervisors.wire.peer import peer_is_trusted, sendable

__all__ = ["Door", "Visitor"]

MAX_VISITORS = 512
"""Connections at once; one more is closed at once."""
MAX_UNWRITTEN = 4 << 20
"""Bytes a visitor may leave unread before it is dropped."""
_CHUNK = 256 * 1024


class Visitor:
    """One connection to a supervisor. `reply` and `error` may be called later than the call; a gone visitor is ignored."""

    def __init__(self, door: Door, sock: socket.socket) -> None:
        self._door = door
        self._sock = sock
        self._decoder = FrameDecoder()
        self._arrivals = Arrivals()
        self._unwritten = b""
        self.gone = False

    def fileno(self) -> int:
        """The descriptor, for the door's epoll."""
        return self._sock.fileno()

    def reply(self, id_: int, value: Any) -> None:
        """Answer a call."""
        self._write(frames.encode_reply(id_, value))

    def error(self, id_: int, error: BaseException) -> None:
        """Answer a call with a typed error."""
        self._write(frames.encode_error(id_, sendable(error)))

    def ready(self, events: int) -> None:
        """The descriptor has something to read, or takes more."""
        if events & select.EPOLLOUT:
            self._flush()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self.gone:
            try:
                data = self._sock.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            for frame in self._decoder.feed(data):
                self._take(frame)

    def _take(self, frame: list[Any]) -> None:
        kind, id_ = frame[0], frame[1]
        if kind == Kind.PING:
            self._write(frames.encode_pong(id_))
        elif kind in (Kind.CALL, Kind.STREAM):
            if not self._arrivals.is_new(id_):
                return
            if type(frame[5]) is Fault:
                self.error(id_, frame[5].error)
            elif kind == Kind.STREAM:
                self.error(id_, Refused("a supervisor streams nothing", "unhandled"))
            else:
                try:
                    self._door.answer(self, id_, frame[5])
                except (Refused, WireError) as error:
                    self.error(id_, error)

    def _write(self, data: bytes) -> None:
        if self.gone:
            return
        self._unwritten += data
        if len(self._unwritten) > MAX_UNWRITTEN:
            self.close()
            return
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._unwritten) if self._unwritten else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unwritten = self._unwritten[sent:]
        self._door.expect(self, writing=bool(self._unwritten))

    def close(self) -> None:
        """Drop the visitor."""
        if not self.gone:
            self.gone = True
            self._door.left(self)
            self._sock.close()


class Door:
    """A listening Unix socket and an epoll, for one supervisor. `answer(visitor, id, message)` is called for each call."""

    def __init__(self, path: str, answer: Callable[[Visitor, int, Any], None]) -> None:
        self.path = path
        self.answer = answer
        self.refused = 0
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._visitors: dict[int, Visitor] = {}
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - a path of our own directory, left by the process before
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._listener.bind(path)
        self._listener.listen(128)
        self.watch(self._listener.fileno(), self._accept)

    def fileno(self) -> int:
        """The one descriptor to watch: readable whenever `poll` has something to do."""
        return self._epoll.fileno()

    def watch(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Call back, with the events, whenever the descriptor is readable."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._watched[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor; called before it is closed."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def poll(self) -> None:
        """Do what there is to do; does not wait."""
        for descriptor, events in self._epoll.poll(0):
            callback = self._watched.get(descriptor)
            if callback is not None:
                callback(events)

    def expect(self, visitor: Visitor, *, writing: bool) -> None:
        """Whether the visitor has bytes that its socket did not take yet."""
        self._epoll.modify(visitor.fileno(), select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def left(self, visitor: Visitor) -> None:
        """A visitor is about to close."""
        self._visitors.pop(visitor.fileno(), None)
        self.unwatch(visitor.fileno())

    def close(self) -> None:
        """Answer nobody any more and remove the socket."""
        for visitor in list(self._visitors.values()):
            visitor.close()
        self._listener.close()
        self._epoll.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        if len(self._visitors) >= MAX_VISITORS or not peer_is_trusted(sock):
            self.refused += 1
            sock.close()
            return
        visitor = Visitor(self, sock)
        self._visitors[sock.fileno()] = visitor
        self.watch(sock.fileno(), visitor.ready)
