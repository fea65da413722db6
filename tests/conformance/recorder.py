"""A pytest plugin that writes each test's outcome to a file as soon as it is known.

Loaded by `run.py` with ``-p``. A run that is cut short leaves all that it had found out.
"""

import json
import os
from pathlib import Path

import pytest

RECORD = "CONFORMANCE_RECORD"


def outcome(report: pytest.TestReport) -> str | None:
    """One word for what a phase of a test showed, or None when that is nothing."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.when == "call" or report.skipped:
        return report.outcome
    return "error" if report.failed else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called by pytest after setup, call and teardown of each test."""
    what = outcome(report)
    if what is not None:
        name = Path(report.location[0]).name + "::" + report.nodeid.partition("::")[2]
        line = json.dumps({"test": name, "outcome": what, "seconds": round(report.duration, 3)})
        with Path(os.environ[RECORD]).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
