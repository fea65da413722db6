"""The form that every bench prints: one row per figure, with its peer and its goal. Pure but for `print_table`.

    {"bench": ..., "machine": {...}, "rows": [{"what", "unit", "ours", "peer", "peer_name", "ratio", "goal", "met"}, ...]}

`ratio` is above 1 where ours is better, whatever the unit; `peer`, `peer_name` and `ratio` are null where there is no peer.
Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Goal", "Report", "Row", "Unit"]


class Unit(StrEnum):
    """What a figure counts."""

    SECONDS = "s"
    """less is better"""
    PER_SECOND = "1/s"
    """more is better"""
    BYTES = "bytes"
    """less is better"""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached: all of what is set. `at_most` and `below` are about our own figure, in the unit of its row."""

    ratio: float | None = None
    """the least ratio"""
    at_most: float | None = None
    below: float | None = None

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether these figures reach it. A ratio that there is not does not."""
        return (
            (self.ratio is None or (ratio is not None and ratio >= self.ratio))
            and (self.at_most is None or ours <= self.at_most)
            and (self.below is None or ours < self.below)
        )

    def text(self, unit: Unit) -> str:
        """The goal in words: `ratio >= 4`, `< 50 ms`."""
        parts = []
        if self.ratio is not None:
            parts.append(f"ratio >= {self.ratio:.3g}")
        if self.at_most is not None:
            parts.append(f"<= {figure(self.at_most, unit)}")
        if self.below is not None:
            parts.append(f"< {figure(self.below, unit)}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: ours, the peer's, and the goal."""

    what: str
    unit: Unit
    ours: float
    goal: Goal
    peer: float | None = None
    peer_name: str | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; below 1 it is worse."""
        if self.peer is None:
            return None
        return self.ours / self.peer if self.unit is Unit.PER_SECOND else self.peer / self.ours

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.goal.met(self.ours, self.ratio)

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in the JSON object."""
        return {
            "what": self.what,
            "unit": str(self.unit),
            "ours": self.ours,
            "peer": self.peer,
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "goal": self.goal.text(self.unit),
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a bench found, and on which machine (`host.describe`)."""

    bench: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return {"bench": self.bench, "machine": self.machine, "rows": [each.as_dict() for each in self.rows]}

    def to_json(self) -> str:
        """The one JSON object, on several lines."""
        return json.dumps(self.as_dict(), indent=2)

    def print_table(self, console: Console) -> None:
        """The report for people."""
        from rich.table import Table

        table = Table(title=f"bench {self.bench}", title_justify="left")
        table.add_column("what")
        for name in ("ours", "peer"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("peer is")
        table.add_column("ratio", justify="right", no_wrap=True)
        table.add_column("goal")
        table.add_column("met", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row.what,
                figure(row.ours, row.unit),
                "-" if row.peer is None else figure(row.peer, row.unit),
                row.peer_name or "-",
                "-" if row.ratio is None else f"{row.ratio:.3g}",
                row.goal.text(row.unit),
                "[green]yes[/]" if row.met else "[red]no[/]",
            )
        console.print(table)
        console.print(_machine_line(self.machine), soft_wrap=True, highlight=False)


def figure(value: float, unit: Unit) -> str:
    """A figure as people write it: `25.6 µs`, `61,200/s`, `4.8 MB`."""
    if unit is Unit.PER_SECOND:
        return f"{value:,.0f}/s"
    scales = (
        ((1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
        if unit is Unit.BYTES
        else ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
    )
    size, name = next((each for each in scales if value >= each[0]), scales[-1])
    return f"{value / size:.3g} {name}"


def _machine_line(machine: dict[str, Any]) -> str:
    load = ", ".join(f"{each:.2f}" for each in machine.get("load", ()))
    parts = [f"{machine.get('cores')} cores", machine.get("cpu"), machine.get("kernel"), f"Python {machine.get('python')}"]
    parts += [f"{name} {version}" for name, version in machine.get("versions", {}).items()]
    return ", ".join([str(each) for each in parts if each]) + (f"; load before: {load}" if load else "")
