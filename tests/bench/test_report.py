"""The form of a bench: its arithmetic, its table, its JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from supervisors.bench.measure import BenchFailed, Effort, in_turns, p50, rate
from supervisors.bench.report import Goal, Report, Row, Unit, figure

ROWS = (
    Row("call p50", Unit.SECONDS, 50e-6, Goal(ratio=4), 400e-6, "stock"),
    Row("calls/s", Unit.PER_SECOND, 1000.0, Goal(ratio=2), 2000.0, "bare"),
    Row("weight", Unit.BYTES, 7.5e6, Goal(at_most=8e6)),
)
REPORT = Report("actors", {"cores": 2, "python": "3.11"}, ROWS)


def test_a_ratio_above_one_means_that_ours_is_better() -> None:
    """Seconds and bytes: less is better; rates: more is. Without a peer there is no ratio."""
    assert [row.ratio for row in ROWS] == [8.0, 0.5, None]
    assert [row.met for row in ROWS] == [True, False, True]


def test_every_part_of_a_goal_counts() -> None:
    """A ratio and a bound together are met only together."""
    goal = Goal(ratio=1 / 3, below=0.05)
    assert goal.met(0.04, 0.5)
    assert not goal.met(0.05, 0.5)
    assert not goal.met(0.04, 0.2)
    assert not goal.met(0.04, None)


def test_the_json_has_exactly_the_fields_that_are_documented() -> None:
    """One object, one entry per row, plain values."""
    found = json.loads(REPORT.to_json())
    assert set(found) == {"bench", "machine", "rows"}
    assert len(found["rows"]) == 3
    for row in found["rows"]:
        assert set(row) == {"what", "unit", "ours", "peer", "peer_name", "ratio", "goal", "met"}
    assert found["rows"][2]["peer"] is None
    assert found["rows"][0]["met"] is True


def test_the_table_shows_every_row() -> None:
    """With figures as people write them."""
    out = io.StringIO()
    REPORT.print_table(Console(file=out, width=200))
    text = out.getvalue()
    for part in ("call p50", "50 µs", "400 µs", "ratio >= 4", "1,000/s", "7.5 MB", "yes", "no", "2 cores"):
        assert part in text


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (25.6e-6, Unit.SECONDS, "25.6 µs"),
        (0.5, Unit.SECONDS, "500 ms"),
        (61200.4, Unit.PER_SECOND, "61,200/s"),
        (4.8e6, Unit.BYTES, "4.8 MB"),
    ],
)
def test_figures(value: float, unit: Unit, text: str) -> None:
    """Three digits and the unit that fits."""
    assert figure(value, unit) == text


@pytest.mark.parametrize("options", [{"rounds": 0}, {"seconds": 0}, {"seconds": float("nan")}, {"calls": 0}])
def test_no_effort_is_refused(options: dict[str, Any]) -> None:
    """The value is in the message."""
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        Effort(**options)


async def test_turns_alternate() -> None:
    """The order of a round is the reverse of the one before, and the median of each one's turns is returned."""
    order: list[str] = []

    async def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = await in_turns({"a": lambda: turn("a"), "b": lambda: turn("b")}, 3, lambda _: None, "x")
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": 4.0, "b": 3.0}


async def test_a_wrong_answer_is_no_figure() -> None:
    """A latency of something that does not echo is not a latency; as many calls are made as were asked for."""
    calls = 0

    async def echo(value: Any) -> Any:
        nonlocal calls
        calls += 1
        return value

    async def wrong(_value: Any) -> Any:
        return "?"

    assert await p50(echo, 1, Effort(calls=5)) > 0
    assert calls == 6
    assert await rate(echo, 1, Effort(calls=10), 4) > 0
    assert calls == 16
    with pytest.raises(BenchFailed, match="was '\\?'"):
        await p50(wrong, 1, Effort(calls=5))
