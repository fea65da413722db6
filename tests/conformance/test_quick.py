"""A part of Thespian's own test suite, on its TCP base and on ours."""

import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("run.py")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_passes_on_thespians_base_passes_on_ours(tmp_path: Path) -> None:
    """The quick part of the conformance run finds no difference that is not explained."""
    report = tmp_path / "report.txt"
    with report.open("wb") as output:
        done = subprocess.run(
            [sys.executable, str(RUNNER), "--quick", "--results", str(tmp_path / "results")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=380,
        )
    assert done.returncode == 0, report.read_text(encoding="utf-8")
