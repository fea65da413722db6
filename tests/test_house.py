"""The rules of the house that no linter checks: light imports, honest exports, trustworthy locks."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("supervisors", "dspex_actors")
LOCKS = ("build.lock", "dev.lock", "lock.lock")

HEAVY = {"dspy", "litellm", "numpy", "pydantic", "thespian", "torch", "uvloop"}
IMPORT_SECONDS = {"supervisors": 0.2, "dspex_actors": 0.3}

PURE_MODULES = (
    "supervisors/errors.py",
    "supervisors/exits.py",
    "supervisors/machine.py",
    "supervisors/spec.py",
    "supervisors/strategy.py",
    "supervisors/wire/arrays.py",
    "supervisors/wire/codec.py",
    "supervisors/wire/frame_decoder.py",
    "supervisors/wire/frames.py",
    "supervisors/wire/sealing.py",
)
# What reads a clock, or touches a file or a terminal, without an import that the contracts could forbid.
IMPURE_BUILTINS = {"breakpoint", "eval", "exec", "input", "open", "print"}
IMPURE_METHODS = {"now", "today", "utcnow"}

# Built from halves, so that this file does not contain what it forbids.
UNFINISHED = re.compile(r"\b(" + "|".join(a + b for a, b in [("TO", "DO"), ("FIX", "ME"), ("X", "XX"), ("HA", "CK")]) + r")\b")
ELSEWHERE = re.compile(r"https?:|file:|--(extra-)?index-url|--find-links|--trusted-host| @ |^-e\b|^[./~]", re.MULTILINE)


def house_files(*suffixes: str) -> Iterator[Path]:
    """The project's own files with these suffixes; hidden and generated folders are left out."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in {"__pycache__", "build", "dist"}]
        yield from (Path(folder, name) for name in files if name.endswith(suffixes))


def import_alone(package: str) -> tuple[set[str], float]:
    """The top-level modules loaded by importing `package` in a fresh interpreter, and the seconds it took."""
    script = (
        "import json, sys, time\n"
        "began = time.perf_counter()\n"
        f"import {package}\n"
        "took = time.perf_counter() - began\n"
        "print(json.dumps([sorted({name.partition('.')[0] for name in sys.modules}), took]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    loaded, took = json.loads(done.stdout)
    return set(loaded), took


def packages() -> list[str]:
    """The dotted names of all packages of ours."""
    inits = (init for package in PACKAGES for init in (ROOT / package).rglob("__init__.py"))
    return sorted(".".join(init.parent.relative_to(ROOT).parts) for init in inits)


def exported(init: Path) -> set[str]:
    """The public names an `__init__.py` defines, or re-exports from our own packages, eagerly or lazily."""
    tree = ast.parse(init.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] in PACKAGES):
            names.update(alias.asname or alias.name for alias in node.names)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_") or name == "__version__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_stays_light(package: str) -> None:
    """Importing a package loads none of the heavy libraries, and is quick (best of five runs)."""
    best = float("inf")
    for _ in range(5):
        loaded, took = import_alone(package)
        assert not loaded & HEAVY
        best = min(best, took)
        if best < IMPORT_SECONDS[package]:
            break
    assert best < IMPORT_SECONDS[package]


@pytest.mark.parametrize("package", packages())
def test_a_package_lists_exactly_what_it_exports(package: str) -> None:
    """`__all__` names what an `__init__.py` defines or re-exports, each once, and each can be had."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    listed = list(getattr(module, "__all__", []))
    assert sorted(listed) == sorted(exported(Path(module.__file__)))
    assert [name for name in listed if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_its_types(package: str) -> None:
    """A `py.typed` marks each package as typed for its users."""
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("path", PURE_MODULES)
def test_a_pure_module_reads_no_clock_and_does_no_io(path: str) -> None:
    """Decisions and formats call nothing that reads a clock, a file or a terminal."""
    impure = [
        f"{path}:{node.lineno}"
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS)
            or (isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS)
        )
    ]
    assert impure == []


def test_no_file_holds_unfinished_work() -> None:
    """Work that is not done is an issue, never a marker in a file."""
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in house_files(".py", ".md", ".toml", "Makefile")
        if (match := UNFINISHED.search(path.read_text()))
    ]
    assert found == []


def test_every_relative_link_in_the_documentation_leads_somewhere() -> None:
    """A relative link in a Markdown file names a file or folder of the project."""
    code = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
    links = (
        (page, target)
        for page in house_files(".md")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", code.sub("", page.read_text()))
        if "://" not in target and not target.startswith("mailto:")
    )
    broken = [f"{page.relative_to(ROOT)}: {target}" for page, target in links if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_hashes_and_names_no_place(lock: str) -> None:
    """Every line of a lock is one exact version with hashes; it names no registry, address or path."""
    text = (ROOT / "requirements" / lock).read_text()
    assert not ELSEWHERE.search(text)
    entries = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    assert entries
    assert [entry for entry in entries if not re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_the_lock_holds_all_that_the_project_declares() -> None:
    """Each runtime and development dependency is in dev.lock, in a version that pyproject.toml admits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        re.findall(
            r"^([a-z0-9._-]+)==([^\s;]+)",
            (ROOT / "requirements" / "dev.lock").read_text(),
            flags=re.MULTILINE,
        )
    )
    declared = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    unmet = [need for need in declared if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))]
    assert [str(need) for need in unmet] == []
