"""Thespian's TCP transport with every frame sealed, nothing unpickled, and no socket bound wider than told.

`SecuredTransport` keeps the parent's event loop and the steps of a transmission, and replaces the places where
bytes of a peer are taken in: all of them pass `SealedBuffer`, `Opener` and `ControlCodec`, and none reaches a
deserialiser of Thespian's. Names beginning with one underscore and a small letter are Thespian's hooks.

What happens to a frame that arrives:

- not authentic, or from a peer too slow or one too many: counted, the connection closed, nothing said;
- authentic but not acceptable (stale, misdirected, a class not on the list): counted, answered with an
  authenticated refusal, so that the sender fails at once instead of trying for five minutes, and closed;
- seen before: counted, acknowledged again, because its sender may have missed that, delivered never again;
- else acknowledged and delivered.

Used in every process of the actor system: on its Thespian thread in actors, admin and logger, and in the threads
of the process that started the system. Descriptors of a transport are closed, raw, in every forked child.
"""

import os
import socket
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

from thespian.actors import ActorAddress, ActorSystemStartupFailure
from thespian.system.messages.convention import CONV_ADDR_IPV4_CAPABILITY
from thespian.system.timing import ExpirationTimer
from thespian.system.transport import (
    ExternalInterfaceTransportInit,
    ForwardMessage,
    ReceiveEnvelope,
    SendStatus,
    Thespian__UpdateWork,
)
from thespian.system.transport.IPBase import TCPv4ActorAddress
from thespian.system.transport.TCPTransport import (
    DEFAULT_ADMIN_PORT,
    LISTEN_DEPTH,
    ExternalTransportCopy,
    RoutedTCPv4ActorAddress,
    TCPEndpoint,
    TCPIncomingPersistent,
    TCPTransport,
    TXOnlyAdminTCPv4ActorAddress,
)

from supervisors.wire.control_codec import ControlCodec, Unencodable
from supervisors.wire.control_plane import ControlPlane, installed
from supervisors.wire.sealing import (
    Opener,
    Rejected,
    Rejection,
    SealedBuffer,
    Sealer,
    Verdict,
    acknowledge,
    is_acknowledgement,
    verify_acknowledgement,
)

__all__ = ["SecuredTransport"]

_NEVER_SENT = b"-"
_READ = 1 << 20

_live: "weakref.WeakSet[SecuredTransport]" = weakref.WeakSet()


class _Incoming(TCPIncomingPersistent):
    """A connection on which a frame is expected, until `deadline`.

    `known` when its peer has already sent an authentic, fresh frame; until then it is one of the strangers.
    """

    def __init__(self, address: Any, sock: socket.socket, plane: ControlPlane, *, known: bool) -> None:
        super().__init__(address, sock, SealedBuffer(plane.max_frame))
        self._expires = ExpirationTimer(plane.frame_timeout)
        self.known = known
        self.born = time.monotonic_ns()
        self.replayed = False

    def expired(self) -> bool:
        return bool(self._expires.view().expired())

    def next_frame(self, plane: ControlPlane) -> None:
        """Expect a further frame; a stranger's deadline stays."""
        self._rData = SealedBuffer(plane.max_frame)
        if self.known:
            self._expires = ExpirationTimer(plane.frame_timeout)


class _Envelope(ReceiveEnvelope):
    """Names a message by its type: Thespian asks for this several times per message, with logging off too."""

    def identify(self) -> str:
        return f"{type(self.message).__name__} from {self.sender}"


class SecuredTransport(TCPTransport):
    """The transport that `supervisors.wire.system_base` hands to Thespian."""

    def __init__(self, init_type: Any, *args: Any) -> None:
        # Not TCPTransport's own __init__: that binds to all interfaces first. This is the rest of it.
        super(TCPTransport, self).__init__()
        self._plane = installed()
        template, admin_routing = self._begin(init_type, args)
        self.socket = self._listen(template.addressDetails.sockname)
        self.myAddress = self._own_address(template, admin_routing)
        self._transmitIntents: dict[int, Any] = {}
        self._waitingTransmits: list[Any] = []
        self._incomingSockets: dict[int, _Incoming] = {}
        self._incomingEnvelopes: list[Any] = []
        self._finished_intents: list[Any] = []
        self._watches: list[int] = []
        self._openSockets: dict[Any, Any] = {}
        self._checkChildren = False
        self._shutdownSignalled = False
        self._codec = ControlCodec(self._plane.allow_list(), self._plane.max_items)
        self._sealer = Sealer(self._plane.key, new_instance=lambda: os.urandom(8), pid=os.getpid)
        self._opener = Opener(self._plane.key, self.socket.getsockname()[1], time.monotonic_ns())
        _live.add(self)

    def _begin(self, init_type: Any, args: tuple[Any, ...]) -> tuple[Any, bool]:
        """Set who this is from one of Thespian's three ways to say so; the address to bind, and the routing."""
        anywhere = ActorAddress(TCPv4ActorAddress(self._plane.bind, 0))
        self._parentAddr = None
        if isinstance(init_type, ExternalInterfaceTransportInit):
            self.txOnly = False
            self._adminAddr = self.getAdminAddr(args[0])
            return anywhere, False
        if isinstance(init_type, TCPEndpoint):
            _, assigned, self._parentAddr, self._adminAddr, admin_routing, self.txOnly = init_type.args
            return assigned or anywhere, admin_routing
        if isinstance(init_type, ExternalTransportCopy):
            self._adminAddr, self.txOnly, admin_routing = args
            return anywhere, admin_routing
        raise ActorSystemStartupFailure(f"invalid transport init type {type(init_type)}")

    @staticmethod
    def _listen(address: tuple[str, int]) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(LISTEN_DEPTH)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def _own_address(self, template: Any, admin_routing: bool) -> Any:
        host, port = self._plane.bind, self.socket.getsockname()[1]
        # Thespian takes port 0 for equal to any: only a given port can be the admin's.
        if self.txOnly and template.addressDetails.sockname[1] and template == self._adminAddr:
            return ActorAddress(TXOnlyAdminTCPv4ActorAddress(host, port, external=False))
        if admin_routing:
            return ActorAddress(RoutedTCPv4ActorAddress(host, port, self._adminAddr, txOnly=self.txOnly))
        return ActorAddress(TCPv4ActorAddress(host, port))

    # --- addresses: TCPTransport's own ask the network for "the" address of this machine

    @staticmethod
    def getAdminAddr(capabilities: dict[str, Any]) -> Any:
        """The address of this system's admin."""
        plane = installed()
        cls = TXOnlyAdminTCPv4ActorAddress if capabilities.get("Outbound Only", False) else TCPv4ActorAddress
        return ActorAddress(cls(plane.bind, capabilities.get("Admin Port", plane.admin_port), external=False))

    @staticmethod
    def getAddressFromString(spec: Any, adminRouting: bool = False) -> Any:
        """The address that ``host:port``, or the tuple of both, means; no host is this one's bind address."""
        host, *port = spec if isinstance(spec, tuple) else spec.split(":")
        where = host or installed().bind, int(port[0]) if port else DEFAULT_ADMIN_PORT
        if adminRouting:
            return ActorAddress(RoutedTCPv4ActorAddress(*where, None, txOnly=False))
        return ActorAddress(TCPv4ActorAddress(*where))

    @staticmethod
    def getConventionAddress(capabilities: dict[str, Any]) -> Any:
        """The addresses of the convention's leaders, or None."""
        specs = capabilities.get(CONV_ADDR_IPV4_CAPABILITY)
        if not specs:
            return None
        return [SecuredTransport.getAddressFromString(spec) for spec in (specs if isinstance(specs, list) else [specs])]

    def external_transport_clone(self) -> "SecuredTransport":
        """A transport of its own for another thread of an outside process."""
        routed = isinstance(self.myAddress.addressDetails, RoutedTCPv4ActorAddress)
        return type(self)(ExternalTransportCopy(), self._adminAddr, self.txOnly, routed)

    # --- life

    def _sockets(self) -> Iterator[socket.socket]:
        holders = [
            self,
            *getattr(self, "_openSockets", {}).values(),
            *getattr(self, "_incomingSockets", {}).values(),
            *getattr(self, "_transmitIntents", {}).values(),
            *getattr(self, "_waitingTransmits", []),
        ]
        for holder in holders:
            sock = getattr(holder, "socket", None)
            if sock is not None:
                yield sock

    def close(self) -> None:
        """End all connections and fail what waits to be sent. The transport cannot be used afterwards."""
        sockets = list(self._sockets())
        queued = list(self.__dict__.get("_aTB_queuedPendingTransmits", ()))
        if queued:  # else the first to fail would make room for the next of them
            self._aTB_queuedPendingTransmits.clear()
        super().close()
        for intent in queued:
            intent.tx_done(SendStatus.Failed)
        self.__dict__.pop("_openSockets", None)
        for sock in sockets:
            sock.close()

    def _abandon(self) -> None:
        """Close what a forked child inherited, without the farewell that the peers would take for the parent's."""
        for sock in self._sockets():
            fd = sock.detach()
            with suppress(OSError):
                if fd >= 0 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.close(fd)

    def childResetFileNumList(self) -> list[int]:
        """Nothing is left for Thespian to close by number in a child: `_abandon` has been there already."""
        return []

    # --- sending

    def serializer(self, intent: Any) -> bytes:
        """The sealed frame of an intent, made once: each attempt to send it sends the same frame."""
        if isinstance(intent.message, Thespian__UpdateWork):
            return _NEVER_SENT
        body = self._codec.encode(self.myAddress, intent.message)
        if len(body) > self._plane.max_frame:
            kind = type(intent.message).__name__
            raise Unencodable(f"{kind} of {len(body)} bytes, more than max_frame={self._plane.max_frame}")
        _, port = getattr(intent.targetAddr.addressDetails, "sockname", ("", 0))
        return self._sealer.seal(body, port, time.monotonic_ns())

    def _submitTransmit(self, transmitIntent: Any, has_exclusive_flag: bool = False) -> None:
        self._aTB_numPendingTransmits += 1
        transmitIntent.addCallback(self._async_txdone, self._async_txdone)
        transmitIntent.transmit_retry_period = timedelta(seconds=self._plane.retry_period)
        self._scheduleTransmitActual(transmitIntent, has_exclusive_flag=has_exclusive_flag)

    def _next_XMIT_1(self, intent: Any) -> Any:
        intent.reused = intent.targetAddr.addressDetails in self._openSockets
        return super()._next_XMIT_1(intent)

    def _next_XMIT_2(self, intent: Any) -> Any:
        going_on = super()._next_XMIT_2(intent)
        if intent.stage == self._XMITStepShutdownWrite:  # all sent: no need of another turn of the loop
            return self._next_XMIT_3(intent)
        return going_on

    def _next_XMIT_3(self, intent: Any) -> bool:
        intent.ackbuf = SealedBuffer(self._plane.max_frame)
        intent.stage = self._XMITStepWaitForAck
        return True

    def _check_XMIT_4_done(self, intent: Any, rcv: bytes) -> Any:
        try:
            while rcv:
                intent.ackbuf.addMore(rcv)
                if not intent.ackbuf.isDone():
                    return True
                frame, rcv = intent.ackbuf.completed()
                if is_acknowledgement(frame):
                    verdict = verify_acknowledgement(self._plane.key, intent.serMsg, frame)
                    intent.extraRead = rcv
                    intent.result = SendStatus.Sent if verdict is Verdict.ACCEPTED else SendStatus.BadPacket
                    intent.stage = self._XMITStepFinishCleanup
                    return self._nextTransmitStep(intent)
                # Both sides of a connection may begin to send at once: this is the other side's frame.
                intent.ackbuf = SealedBuffer(self._plane.max_frame)
                incoming = _Incoming(intent.targetAddr, intent.socket, self._plane, known=True)
                if not self._take(incoming, frame):
                    intent.socket.close()
                    break
            else:
                return True
        except Rejected as rejected:
            self._plane.reject(rejected.reason)
        intent.backoffPause(True)
        intent.stage = self._XMITStepRetry
        return self._nextTransmitStep(intent)

    def _next_XMIT_6(self, intent: Any) -> Any:
        # A connection kept from earlier may have outlived its peer: find that out at once, by a new one.
        if intent.__dict__.pop("reused", False) and intent.retry(immediately=True):
            for name in ("socket", "ackbuf", "_pauseUntil", "_retryTime"):
                held = intent.__dict__.pop(name, None)
                if isinstance(held, socket.socket):
                    held.close()
            intent.stage = self._XMITStepSendConnect
            return self._nextTransmitStep(intent)
        return super()._next_XMIT_6(intent)

    def _queue_intent_extra(self, intent: Any) -> bool:
        extra = getattr(intent, "extraRead", None)
        if not extra:
            return False
        incoming = _Incoming(intent.targetAddr, intent.socket, self._plane, known=True)
        pending = self._feed(incoming, extra)
        if pending is not None:
            self._incomingSockets[pending.socket.fileno()] = pending
        return True

    # --- receiving

    def _acceptNewIncoming(self) -> None:
        try:
            sock, _ = self.new_socket(self.socket.accept)
        except OSError as error:
            self._check_indicators()
            if not isinstance(error, (BlockingIOError, ConnectionAbortedError)):
                self._incomingEnvelopes.append(Thespian__UpdateWork())
            return
        self._check_indicators()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        strangers = [(i.born, fd) for fd, i in self._incomingSockets.items() if not i.known]
        if len(strangers) >= self._plane.max_strangers:
            self._refuse(self._incomingSockets.pop(min(strangers)[1]), Rejection.CROWDED)
        self._incomingSockets[sock.fileno()] = _Incoming(ActorAddress(None), sock, self._plane, known=False)

    def _handlePossibleIncoming(
        self,
        incomingSocket: Any,
        fileno: int,
        closed: bool = False,
        has_exclusive_flag: bool = False,
    ) -> _Incoming | None:
        if closed or incomingSocket.socket is None:
            incomingSocket.close()
            return None
        inc = incomingSocket
        if not isinstance(inc, _Incoming):  # an idle connection has become readable
            inc = _Incoming(inc.fromAddress, inc.socket, self._plane, known=True)
        if inc.socket.fileno() == fileno:
            return self._handleReadableIncoming(inc, has_exclusive_flag)
        if not inc.expired():
            return inc
        if inc.replayed:  # that has been counted
            inc.close()
        else:
            self._refuse(inc, Rejection.SLOW)
        return None

    def _handleReadableIncoming(self, inc: _Incoming, has_exclusive_flag: bool = False) -> _Incoming | None:
        try:
            data = inc.socket.recv(min(_READ, inc.remainingSize()))
        except (BlockingIOError, InterruptedError):
            return inc
        except OSError:
            data = b""
        if not data:
            inc.close()
            return None
        return self._feed(inc, data, has_exclusive_flag)

    def _addedDataToIncoming(self, inc: Any, skipFinish: bool = False, has_exclusive_flag: bool = False) -> _Incoming | None:
        # Thespian's way from a full buffer to an envelope. Nothing here leads to it; should a later version of
        # Thespian take it, then it ends here.
        raise NotImplementedError("frames are taken in by _feed")

    def _feed(self, inc: _Incoming, data: bytes, has_exclusive_flag: bool = False) -> _Incoming | None:
        """Take in what was read; the connection when more is expected on it, None when it is idle or closed."""
        while data:
            try:
                inc.addData(data)
            except Rejected as rejected:
                self._refuse(inc, rejected.reason)
                return None
            if not inc.receivedAllData():
                return inc
            frame, data = inc.data
            if not self._take(inc, frame, has_exclusive_flag):
                inc.close()
                return None
            inc.next_frame(self._plane)
        if not inc.known:
            return inc
        self._finishIncoming(inc, inc.fromAddress)
        return None

    def _take(self, inc: _Incoming, frame: bytes, has_exclusive_flag: bool = False) -> bool:
        """Open, acknowledge and deliver one frame; False when its connection is not worth keeping."""
        now = time.monotonic_ns()
        header = None
        try:
            header, body = self._opener.open(frame, now)
            sender, message = self._codec.decode(body)
        except Rejected as rejected:
            self._plane.reject(rejected.reason)
            header = header or rejected.header
            inc.replayed = rejected.reason is Rejection.REPLAY
            if header is not None:
                self._answer(inc, header, Verdict.ACCEPTED if inc.replayed else Verdict.REFUSED)
            # Whoever repeats a frame has shown no knowledge of the key: a stranger stays one.
            return inc.replayed
        self._opener.admit(header, now)
        answered = self._answer(inc, header, Verdict.ACCEPTED)
        inc.fromAddress = sender
        inc.known = True
        self._processReceivedEnvelope(_Envelope(sender, message), has_exclusive_flag=has_exclusive_flag)
        return answered

    def _answer(self, inc: _Incoming, header: Any, verdict: Verdict) -> bool:
        ack = acknowledge(self._plane.key, header, verdict, time.monotonic_ns())
        try:
            return bool(inc.socket.send(ack) == len(ack))
        except OSError:  # it will be sent again, and then it is a replay
            return False

    def _refuse(self, inc: _Incoming, reason: Rejection) -> None:
        self._plane.reject(reason)
        inc.close()

    def _processReceivedEnvelope(self, envelope: Any, has_exclusive_flag: bool = False) -> None:
        if isinstance(envelope.message, ForwardMessage):  # only with admin routing
            super()._processReceivedEnvelope(envelope, has_exclusive_flag)
        else:
            self._incomingEnvelopes.append(envelope)


def _abandon_inherited() -> None:
    for transport in list(_live):
        transport._abandon()
    _live.clear()


os.register_at_fork(after_in_child=_abandon_inherited)
