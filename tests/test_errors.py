"""The tree of errors, and exit reasons as values."""

from __future__ import annotations

import re

import pytest

from supervisors import errors
from supervisors.exits import (
    Crash,
    Exited,
    ExitReason,
    Killed,
    Lost,
    NoProcess,
    Normal,
    Shutdown,
    StartTimeout,
    is_orderly,
    reason_of_status,
)
from supervisors.wire.codec import pack, unpack
from supervisors.wire.vocabulary import Down

EXAMPLES: list[errors.SupervisorsError] = [
    errors.BadSpec("child 'a'", "no"),
    errors.CallTimeout("counter", 5.0),
    errors.ActorDown("counter", Crash("ValueError", "x")),
    errors.NotRegistered("countr", ("counter",)),
    errors.Overloaded("counter", 10),
    errors.Refused("no", "code", {"a": 1}),
    errors.StartFailed("counter", StartTimeout(2.0)),
    errors.NodeDown("gone"),
    errors.ClientClosed("closed"),
    errors.ClientForked("forked"),
    errors.WrongLoop("another loop"),
    errors.ForkRefused("threads"),
    errors.UnsupportedValue("message.x", "socket", "hint"),
    errors.UnknownWireType("a.B"),
    errors.FrameTooLarge(5, 4),
    errors.GarbledFrame("what"),
]
REASONS: list[ExitReason] = [
    Normal(),
    Shutdown("by x"),
    Crash("E", "m", "t"),
    Killed(9, "why"),
    Exited(3),
    StartTimeout(1.0),
    Lost("link"),
    NoProcess(),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_wire(error: errors.SupervisorsError) -> None:
    """Same class, same attributes, same text."""
    again = unpack(pack(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: type(reason).__name__)
def test_a_reason_survives_the_wire(reason: ExitReason) -> None:
    """An exit reason is a value: equal on the other side, alone and inside a `Down`."""
    assert unpack(pack(reason)) == reason
    assert unpack(pack(Down("x", reason))) == Down("x", reason)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every class stands in the drawing, as deep as its line says, and every class has an example above."""
    assert errors.__doc__ is not None
    drawn = re.findall(r"^    ([│├└─ ]+)(\w+)  +\S", errors.__doc__, re.MULTILINE)
    depths = {name: len(prefix) // 4 for prefix, name in drawn}
    for name in set(errors.__all__) - {"SupervisorsError"}:
        parent = getattr(errors, name).__mro__[1].__name__
        above = 0 if parent == "SupervisorsError" else depths[parent]
        assert depths[name] == above + 1, name
    leaves = {type(each).__name__ for each in EXAMPLES}
    abstract = {"SupervisorsError", "CallFailed", "NodeError", "WireError"}
    assert leaves | abstract == set(errors.__all__)


def test_statuses_are_reasons() -> None:
    """Zero is normal, a positive status is itself, a negative one a signal."""
    assert reason_of_status(0) == Normal()
    assert reason_of_status(3) == Exited(3)
    assert reason_of_status(-11) == Killed(11)
    assert str(Killed(11)) == "killed by SIGSEGV"


def test_only_normal_and_shutdown_are_orderly() -> None:
    """Everything else restarts a transient child."""
    assert [type(each).__name__ for each in REASONS if is_orderly(each)] == ["Normal", "Shutdown"]


def test_the_hint_of_a_wrong_name() -> None:
    """The error says what was meant."""
    assert str(EXAMPLES[3]) == "no server is registered as 'countr'; did you mean 'counter'?"
