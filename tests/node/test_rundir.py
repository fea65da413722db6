"""The directory of a node: private, held by one, cleared up after the dead by the next."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisors.errors import NodeError
from supervisors.process.procfs import RUN_TOKEN
from supervisors.rundir import RunDirectory, base_directory, named, sweep, unnamed
from tests.anatomy import ROOT

HOLDER = """
import sys
from pathlib import Path
from supervisors.rundir import RunDirectory
RunDirectory(Path(sys.argv[1])).take(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, run: str = "none") -> Iterator[subprocess.Popen[str]]:
    """Another process has the directory until the block is left; then it is SIGKILLed, as nobody removes a directory by that."""
    command = [sys.executable, "-c", HOLDER, str(path), run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def path(runtime: Path) -> Iterator[Path]:
    """Where a test's node has its directory."""
    path = unnamed()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_it_is_private(path: Path) -> None:
    """Directory 0700 and lock 0600, whatever the umask; removed with all that is in it."""
    before = os.umask(0)
    directory = RunDirectory(path)
    try:
        directory.take("token")
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    (path / "s1").touch()
    directory.remove()
    assert not path.exists()


def test_socket_paths_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A base directory that is too long for Unix sockets is refused in one sentence that says what to set."""
    longest = Path(f"/tmp/{'x' * 80}")
    longest.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(longest))
    try:
        for make in (unnamed, lambda: named("orders")):
            with pytest.raises(NodeError, match="too long for Unix sockets; set XDG_RUNTIME_DIR to a shorter directory"):
                make()
    finally:
        longest.rmdir()


def test_only_a_directory_of_ones_own_is_a_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path) -> None:
    """`XDG_RUNTIME_DIR` counts if it is absolute, exists and is ours; else it is the directory for temporary files."""
    assert base_directory() == runtime
    temporary = Path("/tmp")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for value in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert base_directory() == temporary


def test_a_name_means_one_directory(runtime: Path) -> None:
    """The same name gives the same directory, another name another."""
    assert named("orders") == named("orders") != named("invoices")
    assert named("orders").parent == runtime


def test_a_directory_open_to_others_is_refused(path: Path) -> None:
    """One that others may enter, or a link to one, was put there by somebody: it is refused and left alone."""
    path.mkdir(mode=0o755)
    with pytest.raises(NodeError, match="not a private directory of this user"):
        RunDirectory(path).take("token")
    assert list(path.iterdir()) == []
    path.chmod(0o700)
    (path / "s1").touch()
    link = path.with_name("dspex-0123abcd")
    link.symlink_to(path)
    try:
        with pytest.raises(NodeError, match="not a private directory of this user"):
            RunDirectory(link).take("token")
        RunDirectory(link).remove()
        assert path.exists()
    finally:
        link.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_directory_of_another_user_is_refused(path: Path) -> None:
    """So is one that belongs to somebody else, and no sweep touches it."""
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    with pytest.raises(NodeError, match="not a private directory of this user"):
        RunDirectory(path).take("token")
    sweep(path.parent, spare=path.with_name("mine"))
    assert path.exists()


def test_a_living_nodes_directory_is_nobody_elses(path: Path) -> None:
    """Whoever comes second is refused in one sentence, and neither it nor a sweep removes anything."""
    with held(path):
        second = RunDirectory(path)
        with pytest.raises(NodeError, match=r"a node runs in .* already; attach to it, or give this one another name"):
            second.take("token")
        second.remove()
        sweep(path.parent, spare=path.with_name("mine"))
        assert (path / "lock").exists()


def test_a_dead_nodes_directory_is_taken_over(path: Path) -> None:
    """The next one of that name has it, without what the dead one left."""
    with held(path):
        (path / "root").touch()
    directory = RunDirectory(path)
    directory.take("token")
    assert [each.name for each in path.iterdir()] == ["lock"]
    directory.remove()


@pytest.mark.parametrize("how", ["sweep", "take over", "remove"])
def test_what_outlived_a_dead_node_is_killed(path: Path, how: str) -> None:
    """Whoever clears up after a node that was killed ends the processes of its run, by their token."""
    token = secrets.token_hex(8)
    with subprocess.Popen(["sleep", "100"], env={**os.environ, RUN_TOKEN: token}) as left:
        with held(path, token):
            pass
        directory = RunDirectory(path)
        if how == "sweep":
            sweep(path.parent, spare=path.with_name("mine"))
        elif how == "take over":
            directory.take("another")
        elif how == "remove":
            directory.remove()
        assert left.wait(5.0) == -9
        directory.remove()
    assert not path.exists()


def test_only_the_dead_are_swept(path: Path) -> None:
    """A directory that is being made is spared for a minute; what no node has made is never touched, whatever its name."""
    mine = [path.with_name("dspex-notes"), path.with_name("dspex-0123abcd")]
    for each in mine:
        each.mkdir(mode=0o700)
        (each / "thoughts").touch()
    unfinished = path.with_name("dspex-12345678.abcdef01")
    unfinished.mkdir(mode=0o700)
    sweep(path.parent, spare=path)
    assert unfinished.exists()
    os.utime(unfinished, (1, 1))
    sweep(path.parent, spare=path)
    assert not unfinished.exists()
    for each in mine:
        (each / "thoughts").unlink()  # raises when it is gone
        each.rmdir()


def test_a_directory_that_is_cleared_up_at_this_moment_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that finds its directory held by another's sweep comes to have it when that is done."""
    with held(path) as sweeper:
        waits = []

        def sweep_ends(seconds: float) -> None:
            waits.append(seconds)
            sweeper.kill()
            sweeper.wait()
            shutil.rmtree(path, ignore_errors=True)

        monkeypatch.setattr("supervisors.rundir.time.sleep", sweep_ends)
        directory = RunDirectory(path)
        directory.take("token")
    assert len(waits) == 1
    assert (path / "lock").read_text() == "token"
    directory.remove()
