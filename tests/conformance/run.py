"""Run Thespian's own test suite on its TCP base and on ours, and print both totals and every difference by name.

``make conformance`` runs all of it, which takes most of an hour; ``--quick`` a part of it in seconds. Each base has
a PID namespace and a network namespace of its own where this machine allows it, because the stock base leaves
hundreds of processes behind and binds to all interfaces. Tests that differ are run again on both bases, alone, to
tell a difference from a test that fails now and then. Exit status: 0 when whatever passes on the stock base passes
on ours, or is explained by name in ``docs/conformance.md``.
"""

import argparse
import fcntl
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = ROOT / "docs" / "conformance.md"
BASES = {"stock": "Thespian's TCP base", "ours": "the secured base"}
QUICK = (
    "test_actorAddressPassing",
    "test_actorSignals",
    "test_badmessage",
    "test_createActor",
    "test_globalName",
    "test_poisonMessage",
    "test_simpleActor",
    "test_stats",
    "test_systemMessages",
)
ALL = "multiprocTCPBase"
QUICKLY = "multiprocTCPBase and not TXOnly and not LoadTorture"
SEVERITY = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")
SECONDS_PER_TEST = 180
GOOD = frozenset({"passed", "skipped", "xfailed"})
RERUNS = 3
TOKEN = "CONFORMANCE_TOKEN"
STRANGE = ("PYTEST", "PYTHON", "THESPIAN", "THESPLOG")
"""what variables begin with that change how Python or Thespian behaves: a test depends on a child's buffered output"""
COUNT = "CONFORMANCE_COUNT"
RECORD = "CONFORMANCE_RECORD"


@dataclass
class Result:
    """What one base made of the tests."""

    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    left_behind: int = 0
    finished: bool = True

    def totals(self) -> str:
        counts = Counter(self.outcomes.values())
        words = [f"{counts[word]} {word}" for word in SEVERITY if counts[word]]
        return ", ".join(words) or "nothing ran"


def suite() -> Path:
    """Where Thespian's tests are installed."""
    spec = importlib.util.find_spec("thespian.test")
    if spec is None or spec.origin is None:
        sys.exit("Thespian's test suite is not installed")
    return Path(spec.origin).parent


# --- namespaces


def namespace() -> list[str] | None:
    """The command that gives the command behind it namespaces of its own, or None when this machine does not."""
    if shutil.which("unshare") is None:
        return None
    for user in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *user, "--fork", "--kill-child", "--pid", "--mount-proc", "--net"]
        tried = subprocess.run([*command, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return command
    return None


def raise_loopback() -> None:
    """Bring ``lo`` up: a new network namespace has it down, and there may be no ``ip`` to do it with."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", b"lo", 1, b"")  # IFF_UP
        fcntl.ioctl(sock, 0x8914, request)  # SIOCSIFFLAGS


def inside(command: Sequence[str]) -> int:
    """Be the first process of the namespaces: run `command`, reap whatever else ends here, return its status."""
    raise_loopback()
    process = subprocess.Popen(command)
    status = 0
    while True:
        pid, ended = os.wait()
        if pid == process.pid:
            status = os.waitstatus_to_exitcode(ended)
            process.returncode = status
            break
    with suppress(ChildProcessError):  # what has ended with the tests is not left behind
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    others = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]
    Path(os.environ[COUNT]).write_text(str(len(others)), encoding="ascii")
    return status


def end_marked(token: str) -> int:
    """Without namespaces: end every process that was started with this run's token, and say how many."""
    ended = 0
    mark = f"{TOKEN}={token}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                ended += 1
    return ended


# --- one run


@dataclass(frozen=True)
class Runner:
    """How the tests are run, on whichever base."""

    select: str
    """pytest's expression"""
    limit: float
    """seconds for all tests on one base"""
    prefix: tuple[str, ...]
    """the command that makes the namespaces; empty where there are none"""

    def run(self, base: str, tests: Iterable[str], results: Path) -> Result:
        """Run `tests` on one base. The output of all processes goes to files in `results`."""
        results.mkdir(parents=True, exist_ok=True)
        record, count = results / "record.jsonl", results / "left-behind"
        record.write_text("", encoding="ascii")
        token = secrets.token_hex(8)
        command = self._command(base, results, tests)
        began = time.monotonic()
        with (results / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=results,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith(STRANGE)},
                    "PYTHONPATH": str(ROOT),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "THESPIAN_BASE_IPADDR": "127.0.0.1",  # a network namespace has no other
                    "THESPLOG_FILE": str(results / "thespian.log"),
                    RECORD: str(record),
                    COUNT: str(count),
                    TOKEN: token,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            finished = True
            try:
                process.wait(self.limit)
            except subprocess.TimeoutExpired:
                finished = False
            finally:
                process.kill()  # in a namespace, all in it go with it
                process.wait()
                ended = end_marked(token)
        left = int(count.read_text(encoding="ascii")) if count.exists() else ended
        return Result(read_record(record), time.monotonic() - began, left, finished)

    def _command(self, base: str, results: Path, tests: Iterable[str]) -> list[str]:
        config = results / "pytest.ini"
        config.write_text("[pytest]\n", encoding="ascii")  # not this project's own
        command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-c", str(config), "-k", self.select]
        command += ["-p", "no:cacheprovider", "-p", "no:asyncio", f"--timeout={SECONDS_PER_TEST}"]
        command += ["-p", "tests.conformance.recorder"]
        if base == "ours":
            command += ["-p", "tests.conformance.secured_plugin"]
        command += tests
        return [*self.prefix, sys.executable, __file__, "--inside", *command] if self.prefix else command


def read_record(record: Path) -> dict[str, str]:
    """Each test's worst outcome."""
    outcomes: dict[str, str] = {}
    for line in record.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        before = outcomes.get(entry["test"], "passed")
        outcomes[entry["test"]] = max(before, entry["outcome"], key=SEVERITY.index)
    return outcomes


# --- the comparison


def differences(stock: Result, ours: Result) -> list[str]:
    """The tests with another outcome, in the order of their names."""
    names = sorted(stock.outcomes.keys() | ours.outcomes.keys())
    return [name for name in names if stock.outcomes.get(name) != ours.outcomes.get(name)]


def explained() -> set[str]:
    """The tests whose difference the documentation explains: the first column of its table."""
    if not EXPLAINED.exists():
        return set()
    return set(re.findall(r"^\| `([^`]+)` \|", EXPLAINED.read_text(encoding="utf-8"), re.MULTILINE))


def again(names: list[str], scratch: Path, runner: Runner) -> dict[str, Counter[str]]:
    """How often each test that differed passes on each base in further runs of these tests only."""
    tests = [str(suite() / name) for name in names]
    passes: dict[str, Counter[str]] = {base: Counter() for base in BASES}
    for attempt in range(RERUNS):
        for base in BASES:
            rerun = runner.run(base, tests, scratch / f"{base}-again-{attempt}")
            passes[base].update(name for name in names if rerun.outcomes.get(name) in GOOD)
    return passes


def report(found: dict[str, Result]) -> None:
    """Print the totals."""
    width = max(map(len, BASES.values()))
    for base, result in found.items():
        note = "" if result.finished else "  (cut off at the time limit)"
        print(
            f"{BASES[base]:<{width}}  {result.totals()}; {result.seconds:.0f} s; "
            f"{result.left_behind} processes left behind{note}",
            flush=True,
        )


def compare(stock: Result, ours: Result, scratch: Path, runner: Runner) -> int:
    """Print every difference by name and what came of trying again; the number that nothing explains."""
    names, known, unexplained = differences(stock, ours), explained(), 0
    print(f"{len(names)} of {len(stock.outcomes)} tests differ" + (":" if names else "."), flush=True)
    passes = again(names, scratch, runner) if names else {}
    for name in names:
        first = f"stock {stock.outcomes.get(name, 'did not run')}, ours {ours.outcomes.get(name, 'did not run')}"
        tried = f"stock {passes['stock'][name]} of {RERUNS}, ours {passes['ours'][name]} of {RERUNS}"
        if name in known:
            verdict = "explained in docs/conformance.md"
        elif passes["ours"][name] < passes["stock"][name]:
            verdict = "NOT EXPLAINED"
            unexplained += 1
        else:
            verdict = "comes and goes"
        print(f"  {name}: {first}; again: {tried} passed; {verdict}", flush=True)
    return unexplained


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    if arguments[:1] == ["--inside"]:
        return inside(arguments[1:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a part that takes less than a minute")
    parser.add_argument("--base", choices=[*BASES], help="only this base, nothing to compare")
    parser.add_argument("--results", type=Path, help="where output and records go (default: a new folder)")
    options = parser.parse_args(arguments)
    results = (options.results or Path(tempfile.mkdtemp(prefix="conformance-"))).absolute()
    print(f"Output of all processes: {results}", flush=True)
    prefix = namespace()
    if prefix is None:
        print("No namespaces on this machine: the stock base binds to all interfaces while it runs.", flush=True)
    tests = [str(suite() / f"{name}.py") for name in QUICK] if options.quick else [str(suite())]
    runner = Runner(QUICKLY if options.quick else ALL, 300.0 if options.quick else 7200.0, tuple(prefix or ()))
    if not options.quick:
        os.nice(10)
    found = {}
    for base in [options.base] if options.base else BASES:
        print(f"Running Thespian's tests on {BASES[base]} ...", flush=True)
        found[base] = runner.run(base, tests, results / base)
    report(found)
    if len(found) < len(BASES):
        return 0
    unexplained = compare(found["stock"], found["ours"], results, runner)
    ran = all(result.outcomes and result.finished for result in found.values())
    return 0 if ran and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
