"""The secured transport, two of them in this process: what arrives, what is refused, what is counted."""

import os
import pickle
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from thespian.system.messages.admin import PendingActor
from thespian.system.transport import (
    ExternalInterfaceTransportInit,
    ReceiveEnvelope,
    SendStatus,
    TransmitIntent,
    streamBuffer,
)
from thespian.system.transport.streamBuffer import toSendBuffer

from supervisors.process.birth import open_descriptors
from supervisors.process.counters import SharedCounters
from supervisors.wire import control_plane
from supervisors.wire.control_codec import AllowList, ControlCodec, Unencodable
from supervisors.wire.control_plane import ControlPlane, install
from supervisors.wire.sealing import (
    MAGIC,
    Header,
    Kind,
    Opener,
    Rejection,
    Sealer,
    Verdict,
    acknowledge,
    is_acknowledgement,
    verify_acknowledgement,
)
from supervisors.wire.transport import SecuredTransport
from tests.wire.control_actors import Told

pytestmark = pytest.mark.timeout(30)

KEY = os.urandom(32)
TURN = timedelta(milliseconds=2)
FRAME_TIMEOUT = 0.3


class Peer:
    """One transport, the envelopes that it received, and the fate of what it sent."""

    def __init__(self) -> None:
        self.transport = SecuredTransport(ExternalInterfaceTransportInit(), {}, None, None)
        self.inbox: list[Any] = []
        self.sent: list[Any] = []
        self.frames: list[bytes] = []

    @property
    def address(self) -> Any:
        return self.transport.myAddress

    @property
    def port(self) -> int:
        return int(self.transport.socket.getsockname()[1])

    def send(self, target: Any, message: Any) -> Any:
        intent = TransmitIntent(target, message, self._done, self._done)
        self.transport.scheduleTransmit(None, intent)
        self.frames.append(intent.serMsg)
        return intent

    def _done(self, status: Any, _intent: Any) -> None:
        self.sent.append(status)

    def turn(self) -> None:
        received = self.transport.run(None, TURN)
        if isinstance(received, ReceiveEnvelope):
            self.inbox.append(received)

    def connect(self) -> socket.socket:
        """A raw connection to this transport, as a stranger makes it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


def pump(until: Callable[[], bool], *peers: Peer, timeout: float = 5.0) -> None:
    """Let the peers run until something holds; fail when it does not."""
    deadline = time.monotonic() + timeout
    while not until():
        assert time.monotonic() < deadline, "it never came to hold"
        for peer in peers:
            peer.turn()


def answer_of(sock: socket.socket, *peers: Peer) -> bytes:
    """What arrives on a raw connection until the first answer or its end."""
    sock.setblocking(False)
    got: list[bytes] = []

    def arrived() -> bool:
        try:
            got.append(sock.recv(4096))
        except BlockingIOError:
            return False
        except ConnectionResetError:
            got.append(b"")
        return True

    pump(arrived, *peers)
    return got[0]


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A configuration with narrow bounds, uninstalled afterwards."""
    counters = SharedCounters(Rejection)
    plane = ControlPlane(
        key=KEY,
        admin_port=1,
        allowed_actors=frozenset({"app.Worker"}),
        counters=counters,
        max_frame=100_000,
        frame_timeout=FRAME_TIMEOUT,
        max_strangers=8,
        retry_period=0.05,
    )
    before = control_plane._Process.plane
    install(plane)
    yield plane
    control_plane._Process.plane = before
    counters.close()


@pytest.fixture
def peers(plane: ControlPlane) -> Iterator[tuple[Peer, Peer]]:
    """Two transports of one control plane."""
    pair = Peer(), Peer()
    yield pair
    for peer in pair:
        peer.transport.close()


def counted(plane: ControlPlane) -> dict[Rejection, int]:
    """The rejections that occurred."""
    return {reason: count for reason, count in plane.rejections().items() if count}


def a_frame(target: Peer, message: object, sender: Peer, key: bytes = KEY, at: int | None = None) -> bytes:
    """A sealed frame as `sender` would send it to `target`, by another key or from another time when given."""
    body = ControlCodec(AllowList()).encode(sender.address, message)
    sealer = Sealer(key, new_instance=lambda: os.urandom(8), pid=os.getpid)
    return sealer.seal(body, target.port, time.monotonic_ns() if at is None else at)


# --- what arrives


def test_a_message_arrives_and_its_sender_learns_of_it(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """A message is delivered with its sender's address, and the sender's intent ends as sent."""
    one, other = peers
    one.send(other.address, {"answer": 42})
    pump(lambda: bool(other.inbox and one.sent), one, other)
    assert other.inbox[0].message == {"answer": 42}
    assert other.inbox[0].sender == one.address
    assert one.sent == [SendStatus.Sent]
    assert counted(plane) == {}


def test_many_messages_both_ways_arrive_once_each(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """Two transports that send to each other at once share their connections without losing or doubling."""
    one, other = peers
    for n in range(200):
        one.send(other.address, n)
        other.send(one.address, n)
    pump(lambda: len(one.sent) + len(other.sent) == 400, one, other, timeout=20)
    pump(lambda: len(one.inbox) + len(other.inbox) == 400, one, other)
    for peer in peers:
        assert sorted(envelope.message for envelope in peer.inbox) == list(range(200))
    assert counted(plane) == {}


def test_a_large_message_arrives_in_pieces(peers: tuple[Peer, Peer]) -> None:
    """A message up to the bound arrives, however many reads it takes."""
    one, other = peers
    one.send(other.address, bytes(99_000))
    pump(lambda: bool(other.inbox), one, other)
    assert other.inbox[0].message == bytes(99_000)


def test_a_message_beyond_the_bound_fails_at_its_sender(peers: tuple[Peer, Peer]) -> None:
    """What no receiver would take is not sent for five minutes: it fails at once, with the figures."""
    one, other = peers
    with pytest.raises(Unencodable, match="max_frame=100000"):
        one.send(other.address, bytes(100_001))


def test_two_frames_in_one_segment_are_both_delivered(peers: tuple[Peer, Peer]) -> None:
    """What a read brings beyond a frame is the beginning of the next."""
    one, other = peers
    with other.connect() as stranger:
        frames = a_frame(other, 1, one), a_frame(other, 2, one), a_frame(other, 3, one)
        stranger.sendall(b"".join(frames)[:-5])
        pump(lambda: len(other.inbox) == 2, other)
        stranger.sendall(frames[2][-5:])
        pump(lambda: len(other.inbox) == 3, other)
    assert [envelope.message for envelope in other.inbox] == [1, 2, 3]


def test_a_frame_behind_an_acknowledgement_is_delivered(peers: tuple[Peer, Peer]) -> None:
    """A peer that acknowledges and sends in one breath is heard in full."""
    one, other = peers
    with socket.create_server(("127.0.0.1", 0)) as server:
        intent = one.send(SecuredTransport.getAddressFromString(server.getsockname()), "question")
        conversation = accepted(server, one)
        frame = received(conversation, one)
        header, _ = Opener(KEY, server.getsockname()[1], 0).open(frame, time.monotonic_ns())
        ack = acknowledge(KEY, header, Verdict.ACCEPTED, time.monotonic_ns())
        conversation.sendall(ack + a_frame(one, "answer", other))
        pump(lambda: bool(one.sent and one.inbox), one)
        conversation.close()
    assert intent.result == SendStatus.Sent
    assert one.inbox[0].message == "answer"


def accepted(server: socket.socket, *peers: Peer) -> socket.socket:
    """The next connection to a server of the test's own."""
    server.setblocking(False)
    found: list[socket.socket] = []

    def arrived() -> bool:
        try:
            found.append(server.accept()[0])
        except BlockingIOError:
            return False
        return True

    pump(arrived, *peers)
    return found[0]


def received(conversation: socket.socket, *peers: Peer) -> bytes:
    """The frame that a transport sends over a connection to the test's own server."""
    return answer_of(conversation, *peers)


# --- strangers


def test_a_pickle_runs_nothing_and_is_counted(peers: tuple[Peer, Peer], plane: ControlPlane, tmp_path: Path) -> None:
    """A pickle, raw or framed as stock Thespian frames it, is refused at its first byte."""
    _, other = peers
    bait = tmp_path / "bait"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(bait),)

    pickled = pickle.dumps((other.address, Attack()), protocol=2)
    for attack in (pickled, toSendBuffer((other.address, Attack())), pickle.dumps(Attack(), protocol=0)):
        with other.connect() as stranger:
            stranger.sendall(attack)
            assert answer_of(stranger, other) == b""
    assert not bait.exists()
    pickle.loads(pickled)  # the bait is good: it is there once it is unpickled
    assert bait.exists()
    assert counted(plane) == {Rejection.MAGIC: 3}
    assert other.inbox == []


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_refused(peers: tuple[Peer, Peer], plane: ControlPlane, seed: int) -> None:
    """Noise, with and without the right beginning, delivers nothing and ends its connection."""
    _, other = peers
    noise = random.Random(seed).randbytes(500)
    for attack in (noise, MAGIC + bytes([0, 0, 1, 0]) + noise):
        with other.connect() as stranger:
            stranger.sendall(attack)
            assert answer_of(stranger, other) == b""
    assert other.inbox == []
    assert sum(counted(plane).values()) == 2


def test_a_frame_with_another_key_is_refused(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """A frame sealed with another key is not answered at all."""
    one, other = peers
    with other.connect() as stranger:
        stranger.sendall(a_frame(other, "hello", one, key=bytes(32)))
        assert answer_of(stranger, other) == b""
    assert other.inbox == []
    assert counted(plane) == {Rejection.MAC: 1}


def test_an_oversized_frame_is_refused_at_its_announcement(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """A stranger who announces more than the bound is turned away before sending it."""
    _, other = peers
    with other.connect() as stranger:
        stranger.sendall(MAGIC + (1 << 30).to_bytes(4, "big"))
        assert answer_of(stranger, other) == b""
    assert counted(plane) == {Rejection.OVERSIZE: 1}


@pytest.mark.parametrize("drip", [b"", MAGIC + bytes([0, 0, 1, 0]) + bytes(200)], ids=["silent", "dripping"])
def test_a_slow_stranger_is_dropped_in_time(peers: tuple[Peer, Peer], plane: ControlPlane, drip: bytes) -> None:
    """A connection without a complete frame ends after `frame_timeout`, also when it keeps sending bytes."""
    _, other = peers
    began = time.monotonic()
    ended = False
    with other.connect() as stranger:
        stranger.setblocking(False)
        dripping = iter(drip)

        def over() -> bool:
            nonlocal ended
            try:
                byte = next(dripping, None)
                if byte is not None:
                    stranger.send(bytes([byte]))
                ended = stranger.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionError:
                ended = True
            return ended

        pump(over, other)
    took = time.monotonic() - began
    assert FRAME_TIMEOUT * 0.9 <= took < FRAME_TIMEOUT + 1.0
    assert counted(plane) == {Rejection.SLOW: 1}


def test_a_crowd_of_strangers_does_not_shut_others_out(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """Beyond the bound the oldest stranger goes; who has the key still gets through."""
    one, other = peers
    crowd = [other.connect() for _ in range(20)]
    try:
        pump(lambda: counted(plane).get(Rejection.CROWDED, 0) == 12, other)
        assert answer_of(crowd[0], other) == b""
        one.send(other.address, "through")
        pump(lambda: bool(one.sent), one, other)
        assert other.inbox[0].message == "through"
        assert len(other.transport._incomingSockets) <= plane.max_strangers
    finally:
        for stranger in crowd:
            stranger.close()


def test_a_stranger_who_leaves_is_not_counted(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """Connecting and closing, as a port scan or Thespian's own wake-up does, is no offence."""
    _, other = peers
    other.connect().close()
    other.transport.interrupt_wait()
    one_turn = iter([False] * 20)
    pump(lambda: next(one_turn, True), other)
    assert other.transport._incomingSockets == {}
    assert counted(plane) == {}


# --- authentic, and refused all the same


def test_a_replayed_frame_delivers_nothing(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """A recorded frame is acknowledged, because it might be a retransmission, counted, and never delivered."""
    one, other = peers
    one.send(other.address, "once")
    pump(lambda: bool(one.sent and other.inbox), one, other)
    for repeated in range(1, 4):
        with other.connect() as attacker:
            attacker.sendall(one.frames[0])
            ack = answer_of(attacker, other)
            assert verify_acknowledgement(KEY, one.frames[0], ack) is Verdict.ACCEPTED
        assert counted(plane) == {Rejection.REPLAY: repeated}
    assert len(other.inbox) == 1


def test_a_retransmission_is_acknowledged_and_delivered_once(peers: tuple[Peer, Peer]) -> None:
    """When an acknowledgement is lost, sending the same frame again ends well and delivers nothing twice."""
    one, other = peers
    frame = a_frame(other, "once", one)
    with other.connect() as first:
        first.sendall(frame)
        pump(lambda: len(other.inbox) == 1, other)
    with other.connect() as second:
        second.sendall(frame)
        assert is_acknowledgement(answer_of(second, other))
    assert len(other.inbox) == 1


def test_a_replay_does_not_make_its_sender_known(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """Whoever repeats a frame stays a stranger: no message for the true sender goes to them, and time runs out."""
    one, other = peers
    one.send(other.address, "once")
    pump(lambda: bool(one.sent and other.inbox), one, other)
    kept = dict(other.transport._openSockets)
    with other.connect() as attacker:
        attacker.sendall(one.frames[0])
        assert is_acknowledgement(answer_of(attacker, other))
        assert other.transport._openSockets == kept
        other.send(one.address, "for one only")
        pump(lambda: bool(one.inbox), one, other)
        assert answer_of(attacker, other) == b""
    assert counted(plane) == {Rejection.REPLAY: 1}


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda one, _: a_frame(one, "x", one), Rejection.MISDIRECTED),
        (lambda one, other: a_frame(other, "x", one, at=1), Rejection.STALE),
        (
            lambda one, other: a_frame(other, PendingActor("os.system", None, 1, None, None), one),
            Rejection.REFUSED_CLASS,
        ),
        (
            lambda _, other: Sealer(KEY, new_instance=lambda: os.urandom(8), pid=os.getpid).seal(
                b"\xc1", other.port, time.monotonic_ns()
            ),
            Rejection.GARBLED,
        ),
    ],
    ids=lambda value: value if isinstance(value, Rejection) else "",
)
def test_an_authentic_frame_that_is_refused_is_answered_so(
    peers: tuple[Peer, Peer], plane: ControlPlane, make: Callable[[Peer, Peer], bytes], reason: Rejection
) -> None:
    """For another port, from another time, of a class not listed, unreadable: refused, and its sender told."""
    one, other = peers
    frame = make(one, other)
    for repeated in (1, 2):
        with other.connect() as stranger:
            stranger.sendall(frame)
            assert verify_acknowledgement(KEY, frame, answer_of(stranger, other)) is Verdict.REFUSED
            assert answer_of(stranger, other) == b""
        assert counted(plane) == {reason: repeated}
    assert other.inbox == []


def test_the_sender_of_a_refused_message_fails_at_once(peers: tuple[Peer, Peer]) -> None:
    """A refusal ends the intent as a bad packet, instead of five minutes of attempts."""
    one, other = peers
    one.send(other.address, PendingActor("os.system", None, 1, None, None))
    pump(lambda: bool(one.sent), one, other, timeout=2)
    assert one.sent == [SendStatus.BadPacket]
    assert other.inbox == []


def test_an_acknowledgement_nobody_waits_for_is_refused(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """An acknowledgement is no message, however authentic."""
    _, other = peers
    ack = acknowledge(KEY, Header(bytes(8), 1, 0, other.port, Kind.DATA), Verdict.ACCEPTED, time.monotonic_ns())
    with other.connect() as stranger:
        stranger.sendall(ack)
        answer_of(stranger, other)
    assert counted(plane) == {Rejection.GARBLED: 1}


# --- acknowledgements on the sender's side


def test_a_forged_acknowledgement_is_not_believed(peers: tuple[Peer, Peer], plane: ControlPlane) -> None:
    """Stock acknowledgements, forged ones and another frame's are counted and the frame is sent again."""
    one, _ = peers
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        target = SecuredTransport.getAddressFromString(server.getsockname())
        intent = one.send(target, "hello")
        header = Header(intent.serMsg[40:48], 1, 0, port, Kind.DATA)
        forged = [
            streamBuffer.ackMsg,
            acknowledge(bytes(32), header, Verdict.ACCEPTED, 0),
            acknowledge(KEY, header._replace(seq=2), Verdict.ACCEPTED, 0),
            acknowledge(KEY, header._replace(port=port + 1), Verdict.ACCEPTED, 0),
        ]
        for attempt in [*forged, acknowledge(KEY, header, Verdict.ACCEPTED, 0)]:
            conversation = accepted(server, one)
            assert received(conversation, one) == intent.serMsg
            assert one.sent == []
            conversation.sendall(attempt)
            if attempt in forged:
                assert answer_of(conversation, one) == b""
            else:
                pump(lambda: bool(one.sent), one)
            conversation.close()
    assert one.sent == [SendStatus.Sent]
    assert counted(plane) == {Rejection.MAGIC: 1, Rejection.MAC: 1, Rejection.MISDIRECTED: 2}


def test_a_kept_connection_to_the_dead_is_given_up_at_once(peers: tuple[Peer, Peer]) -> None:
    """When the peer of a kept connection has died, the next message learns so without waiting to retry."""
    one, other = peers
    one.send(other.address, "first")
    pump(lambda: bool(one.sent and other.inbox), one, other)
    address = other.address
    other.transport.close()
    one.send(address, "second")
    pump(lambda: len(one.sent) == 2, one, timeout=1)
    assert one.sent[1] == SendStatus.DeadTarget


# --- the transport itself


def test_no_socket_is_ever_bound_wider_than_told(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first `bind` on, every socket of a transport is bound to the one address."""
    bound: list[Any] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            bound.append(address)
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Watched)
    one = SecuredTransport(ExternalInterfaceTransportInit(), {}, None, None)
    two = one.external_transport_clone()
    assert type(two) is SecuredTransport
    two.close()
    one.close()
    assert bound == [("127.0.0.1", 0)] * 2
    install(replace(plane, bind="127.0.0.2"))
    elsewhere = SecuredTransport(ExternalInterfaceTransportInit(), {}, None, None)
    assert elsewhere.socket.getsockname()[0] == "127.0.0.2"
    assert elsewhere.myAddress.addressDetails.sockname == elsewhere.socket.getsockname()
    elsewhere.close()


def test_closing_leaves_no_descriptor_open(plane: ControlPlane) -> None:
    """Connections kept, waiting and in the middle of a message all end with the transport."""
    before = open_descriptors()
    one, other = Peer(), Peer()
    one.send(other.address, "kept")
    pump(lambda: bool(one.sent and other.inbox), one, other)
    stranger = other.connect()
    pump(lambda: bool(other.transport._incomingSockets), other)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one.send(SecuredTransport.getAddressFromString(silent.getsockname()), "never answered")
        one.turn()
        one.transport.close()
        other.transport.close()
        stranger.close()
    assert open_descriptors() == before
    assert one.sent == [SendStatus.Sent, SendStatus.Failed]


def test_a_forked_child_holds_no_socket_of_its_parent(peers: tuple[Peer, Peer]) -> None:
    """Right after a fork the child's copies are closed raw, and the parent's connections live on."""
    one, other = peers
    one.send(other.address, "before")
    pump(lambda: bool(one.sent and other.inbox), one, other)
    inherited = [sock.fileno() for peer in peers for sock in peer.transport._sockets()]
    pid = os.fork()
    if not pid:
        os._exit(len(open_descriptors().intersection(inherited)))
    assert len(inherited) == 4
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    other.send(one.address, "after")
    pump(lambda: bool(one.inbox), one, other)


def test_sending_does_not_format_the_message(peers: tuple[Peer, Peer]) -> None:
    """On its way through the transport a message's `__str__` is not called."""
    one, other = peers
    Told.formatted = 0
    one.send(other.address, Told("long"))
    pump(lambda: bool(one.sent and other.inbox), one, other)
    other.inbox[0].identify()
    assert Told.formatted == 0


def test_a_process_without_a_key_has_no_transport() -> None:
    """There is no unsealed mode: without a control plane nothing is bound."""
    before, control_plane._Process.plane = control_plane._Process.plane, None
    try:
        with pytest.raises(RuntimeError, match="no control plane"):
            SecuredTransport(ExternalInterfaceTransportInit(), {}, None, None)
    finally:
        control_plane._Process.plane = before


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"short"},
        {"bind": "0.0.0.0"},
        {"bind": "localhost"},
        {"bind": "::1"},
        {"admin_port": 0},
        {"admin_port": 65536},
        {"max_frame": 0},
        {"frame_timeout": 0.0},
        {"max_strangers": -1},
    ],
    ids=str,
)
def test_a_senseless_configuration_is_refused(plane: ControlPlane, change: dict[str, Any]) -> None:
    """A wide bind, a short key or a bound of nothing never becomes a control plane; the key is not shown."""
    with pytest.raises(ValueError, match=r".") as caught:
        replace(plane, **change)
    assert KEY.hex() not in str(caught.value)
    assert repr(KEY) not in repr(plane)
