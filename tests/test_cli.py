"""The command `dspex`, as a person calls it: in a process of its own, its output in files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DSPEX = str(Path(sys.executable).with_name("dspex"))

pytestmark = pytest.mark.timeout(120)


def dspex(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    out, err = directory / "out", directory / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        done = subprocess.run(
            [DSPEX, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
            check=False,
            timeout=110,
        )
    return done.returncode, out.read_text(), err.read_text()


def test_the_version(tmp_path: Path) -> None:
    """The package's own."""
    status, out, _ = dspex(tmp_path, "--version")
    assert (status, out.split()[0]) == (0, "dspex")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("bench", "nonsense"), "'nonsense' is not one of 'actors', 'recovery'"),
        (("bench", "actors", "--rounds", "0"), "--rounds"),
        (("bench", "actors", "--seconds", "-1"), "--seconds"),
        (("bench", "actors", "--seconds", "nan"), "--seconds"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_bad_usage_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Status 2, the option named, no traceback."""
    status, _, err = dspex(tmp_path, *arguments)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "bench, rows",
    [
        (
            "actors",
            [
                "call p50, 1 outstanding",
                "call p50 over bare echo",
                "calls/s, 16 outstanding",
                "calls/s over bare echo, 16 outstanding",
                "idle server, USS",
            ],
        ),
        ("recovery", ["kill -9 to answering", "whole tree killed to answering"]),
    ],
)
def test_a_bench_measures_and_leaves_nothing(tmp_path: Path, bench: str, rows: list[str]) -> None:
    """A tiny run gives every row with figures above zero; that no process is left is proved by the fixture of every test."""
    status, out, err = dspex(tmp_path, "bench", bench, "--rounds", "1", "--calls", "20", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["bench"] == bench
    assert [row["what"] for row in found["rows"]] == rows
    assert all(row["ours"] > 0 for row in found["rows"])
    assert all(row["ratio"] > 0 for row in found["rows"] if row["peer"] is not None)


def test_a_bench_prints_a_table(tmp_path: Path) -> None:
    """Without --json: the table, plain where NO_COLOR is set."""
    status, out, err = dspex(tmp_path, "bench", "recovery", "--rounds", "1")
    assert status == 0, err
    assert "kill -9 to answering" in out
    assert "\033[" not in out
