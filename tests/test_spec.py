"""Child specs and supervisors as values: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from supervisors import BadSpec, Restart, Server, Strategy, Supervisor, child
from supervisors.spec import BRUTAL_KILL, INFINITY, ChildSpec, ChildType, modules_of, walk
from supervisors.wire.codec import pack, unpack
from supervisors.wire.vocabulary import Address
from tests.servers import Counter, Probe


def test_the_defaults_are_those_of_otp_and_elixir() -> None:
    """Permanent, 5 s to stop, 3 restarts in 5 s, one_for_one, and a supervisor waits for its children for ever."""
    spec = child(Counter)
    assert (spec.id, spec.name, spec.restart, spec.shutdown) == ("counter", None, Restart.PERMANENT, 5.0)
    assert spec.server == "tests.servers:Counter"
    tree = Supervisor("app", (spec,))
    assert (tree.strategy, tree.max_restarts, tree.max_seconds) == (Strategy.ONE_FOR_ONE, 3, 5.0)
    assert tree.shutdown == INFINITY
    assert (spec.type, tree.type) == (ChildType.WORKER, ChildType.SUPERVISOR)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"id": ""}, "'' is no name"),
        ({"id": "a/b"}, "'a/b' is no name"),
        ({"id": "x" * 65}, "is no name"),
        ({"id": "a\nb"}, "is no name"),
        ({"name": "a/b"}, "name: 'a/b' is no name"),
        ({"restart": "sometimes"}, "'sometimes' is not one of permanent, transient, temporary"),
        ({"shutdown": "soon"}, "'soon' is neither seconds nor 'brutal_kill' nor 'infinity'"),
        ({"shutdown": -1.0}, "-1.0 is no number of seconds"),
        ({"shutdown": True}, "True is no number of seconds"),
        ({"shutdown": float("nan")}, "nan is no number of seconds"),
        ({"start_timeout": 0}, "0 is no number of seconds"),
        ({"start_timeout": float("inf")}, "inf is no number of seconds"),
    ],
)
def test_a_bad_child_option_is_refused_with_its_value(options: dict[str, Any], words: str) -> None:
    """The error names the child, the option and the value."""
    with pytest.raises(BadSpec, match=words.replace("(", r"\(")) as caught:
        child(Counter, **{"id": "c", **options})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"strategy": "all_for_none"}, "'all_for_none' is not one of one_for_one"),
        ({"max_restarts": -1}, "-1 is no count of restarts"),
        ({"max_restarts": 1.5}, "1.5 is no count of restarts"),
        ({"max_restarts": True}, "True is no count of restarts"),
        ({"max_seconds": 0}, "0 is no number of seconds"),
        ({"shutdown": "never"}, "'never' is neither"),
        ({"children": (child(Counter), child(Counter))}, "two children have the id 'counter'"),
        ({"children": ("counter",)}, "'counter' is no child"),
        ({"restart": "no"}, "'no' is not one of"),
    ],
)
def test_a_bad_supervisor_option_is_refused_with_its_value(options: dict[str, Any], words: str) -> None:
    """The error names the supervisor, the option and the value."""
    with pytest.raises(BadSpec, match=words):
        Supervisor("s", **options)


@pytest.mark.parametrize("path", ["Counter", "tests.servers", "tests.servers:", ":Counter", "a b:C", "tests/servers:C", "a:b-c"])
def test_a_server_is_named_by_an_import_path(path: str) -> None:
    """`package.module:Class`, nothing else."""
    with pytest.raises(BadSpec, match="no import path"):
        ChildSpec(id="c", server=path)


def test_a_class_inside_a_function_is_refused() -> None:
    """No other process could find it; the error says what to do."""

    class Local(Server):
        pass

    with pytest.raises(BadSpec, match="move it to a module"):
        child(Local)


def test_a_tree_travels_as_a_value() -> None:
    """Packed and unpacked it is equal, and a bad one that arrives is refused as a bad one that is made."""
    tree = Supervisor(
        "top",
        (
            child(Counter, name="counter", args=(1,), restart="transient", shutdown=BRUTAL_KILL),
            Supervisor("inner", (child(Probe, kwargs={"journal": "x"}),), max_restarts=7),
        ),
    )
    assert unpack(pack(tree)) == tree
    assert [each.id for each in walk(tree)] == ["counter", "probe"]
    assert modules_of(tree) == {"tests.servers"}


def test_a_supervisor_has_the_start_deadlines_of_its_children_together() -> None:
    """They start one after the other, so the sum is the least that it needs."""
    inner = Supervisor("inner", (child(Counter, start_timeout=3.0),))
    assert Supervisor("s", (child(Counter, start_timeout=2.0), inner)).start_timeout == 10.0 + 2.0 + 13.0


def test_an_address_knows_its_id() -> None:
    """The id is the last part of the place."""
    assert Address("local/app/counter", "/x", 1, 2, "/y").id == "counter"
