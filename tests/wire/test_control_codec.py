"""The control plane's values: exact lists, nothing executed, nothing imported on a stranger's word."""

import datetime as dt
import enum
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, PoisonMessage, ValidateSource
from thespian.system.addressManager import ActorAddressManager, CannotPickleAddress
from thespian.system.logdirector import LogAggregator, LoggerFileDup
from thespian.system.messages.admin import CapabilityUpdate, PendingActor, QueryAck
from thespian.system.messages.convention import ConventionRegister
from thespian.system.messages.logcontrol import SetLogging
from thespian.system.transport import ForwardMessage
from thespian.system.transport.IPBase import TCPv4ActorAddress
from thespian.system.transport.TCPTransport import RoutedTCPv4ActorAddress, TXOnlyAdminTCPv4ActorAddress

from supervisors.wire.control_codec import (
    PRODUCTION_MESSAGES,
    AllowList,
    ControlCodec,
    Unencodable,
    allow_message,
    wire_name,
)
from supervisors.wire.sealing import Rejected, Rejection

pytestmark = pytest.mark.timeout(20)

SENDER = ActorAddress(TCPv4ActorAddress("127.0.0.1", 4711))
OBJECT, ENUM, CLASS, ADDRESS = 5, 6, 7, 8


@allow_message
class Mode(enum.Enum):
    FAST = 1


@allow_message
@dataclass
class Note:
    text: str = ""
    mode: Mode = Mode.FAST
    parts: list[Any] = field(default_factory=list)

    def __setstate__(self, state: object) -> None:
        raise AssertionError("a message was restored by its own code")

    def __reduce__(self) -> str:
        raise AssertionError("a message was taken apart by its own code")


class Stranger:
    """Known to this process, and not on the list."""


def a_codec(actors: set[str] | None = None) -> ControlCodec:
    """A codec with the production list."""
    return ControlCodec(AllowList(actors or set()))


def there_and_back(message: object, codec: ControlCodec | None = None) -> Any:
    """What arrives of a message."""
    codec = codec or a_codec()
    sender, received = codec.decode(codec.encode(SENDER, message))
    assert sender == SENDER
    return received


def reason_of(tree: object, codec: ControlCodec | None = None) -> Rejection:
    """Why `codec` refuses a message that was written by hand."""
    body = msgpack.packb([[ADDRESS, 0, "127.0.0.1", 4711], tree])
    with pytest.raises(Rejected) as caught:
        (codec or a_codec()).decode(body)
    return caught.value.reason


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
    | st.timedeltas()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 99), inner, max_size=4)
        | st.sets(st.integers().filter(lambda n: -(2**63) <= n < 2**63), max_size=4)
        | st.frozensets(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    """Every value that is carried comes back equal and of the same type."""
    received = there_and_back(value)
    assert received == value
    assert type(received) is type(value)


def test_a_listed_message_comes_back_without_running_its_code() -> None:
    """An object is restored from its ``__dict__`` alone."""
    received = there_and_back(Note("hello", parts=[1, (2,), Note("inner")]))
    assert isinstance(received, Note)
    assert received.mode is Mode.FAST
    assert received.parts[:2] == [1, (2,)]
    assert received.parts[2].text == "inner"


@pytest.mark.parametrize("name", PRODUCTION_MESSAGES)
def test_every_class_on_the_list_exists(name: str) -> None:
    """The list names classes of the installed Thespian, each by its own name."""
    assert wire_name(AllowList().message(name)) == name


def test_thespians_messages_come_back() -> None:
    """What Thespian sends for creating, asking and ending survives with all that it carries."""
    ack = there_and_back(QueryAck("name", 1, inShutdown=False))
    assert (ack.systemName, ack.systemVersion, ack.inShutdown) == ("name", 1, False)
    assert there_and_back(ChildActorExited(SENDER)).childAddress == SENDER
    assert there_and_back(PoisonMessage(ActorExitRequest(), "details")).poisonMessage == ActorExitRequest()


def test_a_log_record_with_anything_in_it_can_be_sent() -> None:
    """Logging never fails because of what a caller attached: it arrives as text."""
    record = logging.makeLogRecord({"msg": "hello", "extra": Stranger, "args": None})
    received = there_and_back(record)
    assert received.getMessage() == "hello"
    assert received.extra == str(Stranger)


# --- what is refused


@pytest.mark.parametrize(
    "message",
    [
        ValidateSource("hash", b"source"),
        SetLogging(0, True, True),
        LoggerFileDup(),
        LogAggregator(SENDER),
        CapabilityUpdate("name", "value"),
        ConventionRegister(SENDER, {}),
        ForwardMessage("inner", SENDER, SENDER),
        Stranger(),
        Stranger,
        object(),
        len,
        print,
        1 + 2j,
        bytearray(b"x"),
        ValueError("no"),
        2**64,
        "\ud800",
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_not_on_the_list_cannot_be_sent(message: object) -> None:
    """Source loading, redirection of logs, conventions, foreign classes and functions fail at the sender."""
    with pytest.raises(Unencodable):
        a_codec().encode(SENDER, message)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:Popen",
        "thespian.actors:ValidateSource",
        "thespian.system.logdirector:LoggerFileDup",
        "thespian.actors:ActorExitRequest.__init__",
        "thespian.actors",
        "",
        f"{__name__}:Stranger",
    ],
)
def test_an_object_of_another_class_is_refused_on_arrival(name: str) -> None:
    """The receiver has the same exact list: a name close to one on it is not on it."""
    assert reason_of([OBJECT, name]) is Rejection.REFUSED_CLASS
    assert reason_of([CLASS, name]) is Rejection.REFUSED_CLASS
    assert reason_of([ENUM, name, "FAST"]) is Rejection.REFUSED_CLASS


def test_a_refused_name_imports_nothing() -> None:
    """Refusing a class does not load its module."""
    sys.modules.pop("antigravity", None)
    assert reason_of([OBJECT, "antigravity:Anything"]) is Rejection.REFUSED_CLASS
    assert "antigravity" not in sys.modules


def test_a_class_travels_only_when_it_is_listed_as_a_value() -> None:
    """That instances of a class may be sent does not let the class itself be sent."""
    assert reason_of([CLASS, wire_name(Note)]) is Rejection.REFUSED_CLASS
    assert there_and_back(Note, ControlCodec(AllowList(values=[Note]))) is Note


@pytest.mark.parametrize("name", ["os.system", "app.workers.Other", "app.workers", "", None, 7, b"app.workers.Worker"])
def test_a_create_request_for_another_actor_is_refused(name: object) -> None:
    """Thespian imports the class that a create request names: only exactly listed ones pass."""
    codec = a_codec({"app.workers.Worker"})
    request = PendingActor(name, None, 1, None, None)
    body = codec.encode(SENDER, request)
    with pytest.raises(Rejected) as caught:
        codec.decode(body)
    assert caught.value.reason is Rejection.REFUSED_CLASS


def test_a_create_request_is_judged_wherever_it_is_hidden() -> None:
    """A request inside another message is a request."""
    codec = a_codec({"app.workers.Worker"})
    allowed = PendingActor("app.workers.Worker", None, 1, None, None)
    assert there_and_back(PoisonMessage(allowed), codec).poisonMessage.actorClassName == "app.workers.Worker"
    body = codec.encode(SENDER, PoisonMessage([PendingActor("os.system", None, 1, None, None)]))
    with pytest.raises(Rejected) as caught:
        codec.decode(body)
    assert caught.value.reason is Rejection.REFUSED_CLASS


@pytest.mark.parametrize(
    "tree",
    [
        [],
        [99],
        ["list"],
        [None],
        [[0]],
        {},
        {"a": 1},
        msgpack.ExtType(5, b"x"),
        msgpack.Timestamp(0),
        [2, [0], 1],
        [4, "odd"],
        [OBJECT],
        [OBJECT, wire_name(Note), "text"],
        [OBJECT, wire_name(Note), 1, 2],
        [OBJECT, wire_name(Note), "__class__", "x"],
        [OBJECT, wire_name(Note), "__dict__", "x"],
        [OBJECT, wire_name(Mode), "value", 1],
        [ENUM, wire_name(Mode), "SLOW"],
        [ENUM, wire_name(Mode)],
        [ENUM, wire_name(Note), "text"],
        [ADDRESS, 0, "localhost", 1],
        [ADDRESS, 0, "127.0.0.1", 65536],
        [ADDRESS, 0, "127.0.0.1", -1],
        [ADDRESS, 0, "127.0.0.1", True],
        [ADDRESS, 9, "127.0.0.1", 1],
        [ADDRESS, -1, "127.0.0.1", 1],
        [ADDRESS, 3, 7],
        [9, "x", 0, 0],
        [9, 10**12, 0, 0],
        [10, "yesterday"],
        [10, 7],
    ],
    ids=str,
)
def test_a_tree_that_means_nothing_is_garbled(tree: object) -> None:
    """Whatever is not exactly a value is refused as a whole."""
    assert reason_of(tree) in {Rejection.GARBLED, Rejection.REFUSED_CLASS}


@given(st.binary(max_size=300))
def test_random_bytes_are_rejected_and_nothing_else(body: bytes) -> None:
    """No bytes make the decoder raise anything but `Rejected`."""
    with pytest.raises(Rejected):
        a_codec().decode(body)


@pytest.mark.parametrize("depth", [33, 500, 5000])
def test_depth_is_bounded(depth: int) -> None:
    """A deeply nested frame is refused and cannot exhaust the stack; the sender is told before."""
    head = b"\x92" + msgpack.packb([ADDRESS, 0, "127.0.0.1", 4711])
    with pytest.raises(Rejected) as caught:
        a_codec().decode(head + b"\x92\x00" * depth + b"\xc0")
    assert caught.value.reason is Rejection.GARBLED
    knot: list[object] = []
    knot.append(knot)
    with pytest.raises(Unencodable):
        a_codec().encode(SENDER, knot)


def test_a_collection_is_bounded() -> None:
    """A short frame that announces a huge array is refused before memory is taken for it."""
    head = b"\x92" + msgpack.packb([ADDRESS, 0, "127.0.0.1", 4711])
    with pytest.raises(Rejected) as caught:
        a_codec().decode(head + b"\xdd\xff\xff\xff\xff")
    assert caught.value.reason is Rejection.GARBLED


# --- addresses


@pytest.mark.parametrize(
    "details",
    [
        TCPv4ActorAddress("127.0.0.1", 1),
        RoutedTCPv4ActorAddress("127.0.0.1", 2, SENDER, txOnly=True),
        TXOnlyAdminTCPv4ActorAddress("127.0.0.1", 3, external=False),
        None,
        "/name",
    ],
    ids=lambda details: type(details).__name__,
)
def test_addresses_come_back(details: Any) -> None:
    """Each kind of address survives, and none comes back as one that would be bound wider."""
    received = there_and_back([ActorAddress(details)])[0]
    assert received == ActorAddress(details)
    assert type(received.addressDetails) is type(details)
    assert getattr(received.addressDetails, "bindname", ("127.0.0.1",))[0] == "127.0.0.1"
    assert str(received) == str(ActorAddress(details))


def test_a_sender_behind_others_comes_back() -> None:
    """A sender that is reached by way of admins is named with its way."""
    admin = ActorAddress(TXOnlyAdminTCPv4ActorAddress("127.0.0.1", 3, external=False))
    sender = ActorAddress(RoutedTCPv4ActorAddress("127.0.0.1", 2, admin, txOnly=True))
    received, _ = a_codec().decode(a_codec().encode(sender, None))
    assert received.addressDetails.routing == [None, admin]


def test_an_unfinished_childs_address_waits_for_the_real_one() -> None:
    """A local address is sent as the real one, and not before that is known: Thespian asks again then."""
    manager = ActorAddressManager(None, SENDER)
    local = manager.createLocalAddress()
    with pytest.raises(CannotPickleAddress):
        a_codec().encode(SENDER, [local])
    real = ActorAddress(TCPv4ActorAddress("127.0.0.1", 99))
    manager.associateUseableAddress(SENDER, 0, real)
    assert there_and_back([local]) == [real]


@pytest.mark.parametrize("sender", [None, "text", [ADDRESS, 3, None], [ADDRESS, 3, "x"], [0], [OBJECT, wire_name(Note)]])
def test_a_message_has_a_sender_that_can_be_answered(sender: object) -> None:
    """A body whose first part is not the address of an actor is garbled."""
    with pytest.raises(Rejected) as caught:
        a_codec().decode(msgpack.packb([sender, "message"]))
    assert caught.value.reason is Rejection.GARBLED


# --- our own messages


def test_a_class_without_a_dict_cannot_be_listed() -> None:
    """Slots could only be restored by running code, so such a class is refused when it is listed."""

    @dataclass(slots=True)
    class Slotted:
        x: int

    with pytest.raises(ValueError, match="__dict__"):
        allow_message(Slotted)


def test_a_listed_name_stays_one_class() -> None:
    """Listing the same class again is fine, another one under its name is not."""
    assert allow_message(Note) is Note
    impostor = type("Note", (), {"__module__": Note.__module__, "__qualname__": "Note"})
    with pytest.raises(ValueError, match="already"):
        allow_message(impostor)
