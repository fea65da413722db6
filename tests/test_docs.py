"""Every example in the documentation runs, and prints what it says it prints."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])

pytestmark = pytest.mark.timeout(60)


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return BLOCK.findall((ROOT / page).read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """A promise names the test that shows it; a test that was renamed takes its promise with it."""
    if page.name == "conformance.md":
        return  # the tests that it names are Thespian's
    for path, name in re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", page.read_text()):
        source = ROOT / "tests" / path
        assert source.exists(), path
        assert not name or re.search(rf"^(?:async )?def {name}\(", source.read_text(), re.MULTILINE), f"{path}::{name}"


def run(script: Path, cwd: Path) -> str:
    """What a script prints. Its output goes to a file: a child that held a pipe would hang this run."""
    output = cwd / "output.txt"
    with output.open("w") as file:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=cwd,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "NO_COLOR": "1"},
            check=False,
            timeout=50,
        )
    text = output.read_text()
    assert done.returncode == 0, text
    return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_is_python(page: Path) -> None:
    """Each block compiles; those that make a whole are run below."""
    for block in BLOCK.findall(page.read_text()):
        # A piece of a function stands indented, as it does in its function.
        ast.parse(f"async def piece():\n{block}" if block.startswith(" ") else block)


def test_the_readme_shows_the_example(tmp_path: Path) -> None:
    """The counter of the README is examples/counter.py, it has fewer than 30 lines of code, and it runs."""
    [shown] = blocks("README.md")
    example = ROOT / "examples/counter.py"
    source = example.read_text()
    assert source.endswith(shown)
    assert len([line for line in shown.splitlines() if line.strip()]) < 30
    assert run(example, tmp_path) == "the counter says 42\n"


def test_the_tutorial_works_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    """Its two files print what the comments in them say, before and after the kill is added."""
    shop, script, kill = blocks("docs/tutorials/counter.md")
    (tmp_path / "shop.py").write_text(shop)
    first = tmp_path / "try_it.py"
    first.write_text(script)
    lines = run(first, tmp_path).splitlines()
    assert lines[:4] == [
        "7",
        "only 7 left sold_out",
        "crash (ZeroDivisionError: integer division or modulo by zero)",
        "9",
    ]
    assert lines[-1].lstrip("│├└─ ").startswith("stock")
    assert "ZeroDivisionError" in (tmp_path / "shop.log").read_text()
    before, last = script.split("        print(await client.tree())")
    first.write_text(f"import os\nimport signal\n{before}{kill}        print(await client.tree()){last}")
    lines = run(first, tmp_path).splitlines()
    assert lines[4:6] == ["killed by SIGKILL", "9"]
    for comment in re.findall(r"print\(.*?\)  # (.*)$", script + kill, re.MULTILINE):
        assert comment.split(":")[0] in "\n".join(lines), comment


def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    """Called, killed, crashed, its tree killed, with the tree before and after, and nothing left."""
    text = run(ROOT / "examples/counter_demo.py", tmp_path)
    for line in ("killed by SIGKILL", "ZeroDivisionError", "counts from its start again: 101", "processes left: 0"):
        assert line in text, text
    assert text.count("▸ local") == 2
