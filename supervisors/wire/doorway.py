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
from dataclasses import replace
from typing import Any

from supervisors.errors import Overloaded, Refused, WireError
from supervisors.wire import frames
from supervisors.wire.frame_decoder import Fault, FrameDecoder
from supervisors.wire.frames import Kind
from supervisors.wire.order import Arrivals
from supervisors.wire.peer import LinkStatistics, peer_is_trusted, sendable

__all__ = ["Door", "Visitor"]

MAX_CONNECTIONS = 512
"""At once; the next ones wait in the socket's queue until one leaves."""
MAX_QUESTIONS = 4096
"""That one connection may have open; one more is `Overloaded`."""
MAX_UNWRITTEN = 4 << 20
"""Bytes a connection may leave unread before it is dropped."""
_QUEUE = 512
_CHUNK = 256 * 1024


class Visitor:
    """Who has asked one question. It may be answered later than it was asked; nobody hears the answer to a gone one."""

    __slots__ = ("_connection", "gone")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.gone = False
        """has left, or does not want the answer any more"""

    def reply(self, id_: int, value: Any) -> None:
        """Answer. Raises `WireError` when the value cannot travel; nothing was sent then."""
        self._connection.answer(id_, frames.encode_reply(id_, value))

    def error(self, id_: int, error: BaseException) -> None:
        """Answer with a typed error."""
        self._connection.answer(id_, frames.encode_error(id_, sendable(error)))


class _Connection:
    """One connection to a supervisor."""

    def __init__(self, door: Door, sock: socket.socket) -> None:
        self._door = door
        self._sock = sock
        self._decoder = FrameDecoder()
        self._arrivals = Arrivals()
        self._questions: dict[int, Visitor] = {}
        self._unwritten = b""
        self._asked = 0
        self._gone = False

    def fileno(self) -> int:
        """The descriptor, for the door's epoll."""
        return self._sock.fileno()

    def statistics(self) -> LinkStatistics:
        """The counters of this moment."""
        arrivals = self._arrivals
        return LinkStatistics.of(
            self._decoder,
            links=int(not self._gone),
            frames=arrivals.arrived + arrivals.doubles + arrivals.unknown + self._asked,
            double=arrivals.doubles,
            unknown=arrivals.unknown,
        )

    def ready(self, events: int) -> None:
        """The descriptor has something to read, or takes more."""
        if events & select.EPOLLOUT:
            self._flush()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self._gone:
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
        if kind in (Kind.CALL, Kind.STREAM):
            if self._arrivals.is_new(id_):
                self._question(kind, id_, frame[5])
        elif kind == Kind.CANCEL:
            self._asked += 1
            visitor = self._questions.pop(id_, None)
            if visitor is not None:
                visitor.gone = True
        elif kind == Kind.PING:
            self._asked += 1
            self._write(frames.encode_pong(id_))
        else:
            self._arrivals.unknown += 1

    def _question(self, kind: int, id_: int, message: Any) -> None:
        visitor = Visitor(self)
        try:
            if type(message) is Fault:
                raise message.error
            if kind == Kind.STREAM:
                raise Refused("a supervisor streams nothing", "unhandled")
            if len(self._questions) >= MAX_QUESTIONS:
                raise Overloaded("a supervisor", MAX_QUESTIONS)
            self._questions[id_] = visitor
            self._door.answer(visitor, id_, message)
        except (Overloaded, Refused, WireError) as error:
            visitor.error(id_, error)

    def answer(self, id_: int, data: bytes) -> None:
        """Send the answer to a question, once."""
        self._questions.pop(id_, None)
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._gone:
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
        """Drop it: nobody hears answers any more."""
        if not self._gone:
            self._gone = True
            for visitor in self._questions.values():
                visitor.gone = True
            self._questions.clear()
            self._door.left(self)
            self._sock.close()


class Door:
    """A listening Unix socket and an epoll, for one supervisor. `answer(visitor, id, message)` is called for each call."""

    def __init__(self, path: str, answer: Callable[[Visitor, int, Any], None]) -> None:
        self.path = path
        self.answer = answer
        self.refused = 0
        """connections of other users, turned away"""
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._connections: dict[int, _Connection] = {}
        self._past = LinkStatistics()
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - a path of our own directory, left by the process before
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._listener.bind(path)
        self._listener.listen(_QUEUE)
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
        """Do what there is to do; does not wait. Called at every event, and several times a second in any case."""
        if self._listener.fileno() not in self._watched and len(self._connections) < MAX_CONNECTIONS:
            self.watch(self._listener.fileno(), self._accept)
        for descriptor, events in self._epoll.poll(0):
            callback = self._watched.get(descriptor)
            if callback is not None:
                callback(events)

    def expect(self, connection: _Connection, *, writing: bool) -> None:
        """Whether the connection has bytes that its socket did not take yet."""
        self._epoll.modify(connection.fileno(), select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def left(self, connection: _Connection) -> None:
        """A connection is about to close."""
        self._past += replace(connection.statistics(), links=0)
        self._connections.pop(connection.fileno(), None)
        self.unwatch(connection.fileno())

    def statistics(self) -> LinkStatistics:
        """The sum over all connections, the closed ones included."""
        return sum((each.statistics() for each in self._connections.values()), self._past)

    def close(self) -> None:
        """Answer nobody any more and remove the socket."""
        for connection in list(self._connections.values()):
            connection.close()
        self._listener.close()
        self._epoll.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is free: not again before the next `poll`, or this would be a loop in place
            self.unwatch(self._listener.fileno())
            return
        if not peer_is_trusted(sock):
            self.refused += 1
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(self, sock)
        self._connections[sock.fileno()] = connection
        self.watch(sock.fileno(), connection.ready)
        if len(self._connections) >= MAX_CONNECTIONS:
            self.unwatch(self._listener.fileno())
