"""Control groups, where this machine lets us make some; and no harm where it does not."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisors.process.cgroup import ControlGroup
from tests.anatomy import ROOT
from tests.conftest import wait_for

_JOIN = """
import subprocess, sys
from pathlib import Path
from supervisors.process.cgroup import ControlGroup
ControlGroup(Path(sys.argv[1])).join()
hidden = subprocess.Popen(["sleep", "100"], start_new_session=True, env={}, stdout=subprocess.DEVNULL)
print(hidden.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    """A group that is removed after the test."""
    group = ControlGroup.make(secrets.token_hex(4))
    if group is None:
        pytest.skip("no control group is handed to this user")
    yield group
    group.remove()
    assert not group.path.exists()


def test_whatever_hides_is_found(group: ControlGroup) -> None:
    """A process without our environment, with a session of its own, is ended with the group of whoever started it."""
    command = [sys.executable, "-c", _JOIN, str(group.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        hidden = int(server.stdout.readline())
        server.kill()
    assert group.end(server.pid) == [hidden]
    assert wait_for(lambda: not (group.path / str(server.pid) / "cgroup.procs").read_bytes(), 1.0)
    group.tidy()
    assert not (group.path / str(server.pid)).exists()
    assert group.end(server.pid) == []


def test_the_living_are_not_tidied_away(group: ControlGroup) -> None:
    """Tidying up leaves the group of a living server alone; removing it all ends that as well."""
    command = [sys.executable, "-c", _JOIN, str(group.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        server.stdout.readline()
        group.tidy()
        assert (group.path / str(server.pid)).exists()
        group.remove()
        assert server.wait(1.0) == -9
        assert not group.path.exists()


def test_a_group_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody has handed a group to this user there is none, and nothing is made."""
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr("supervisors.process.cgroup._own_group", lambda: tmp_path)
    assert ControlGroup.make("x") is None
    monkeypatch.setattr("supervisors.process.cgroup._own_group", lambda: None)
    assert ControlGroup.make("x") is None
    assert [each.name for each in tmp_path.iterdir()] == ["cgroup.procs"]


def test_a_group_that_has_gone_harms_nobody(tmp_path: Path) -> None:
    """Joining, ending, tidying and removing what is not there do nothing; what is no group of ours is never removed."""
    gone = ControlGroup(tmp_path / "dspex-gone" / "deeper")
    gone.join()
    assert gone.end(1) == []
    gone.tidy()
    gone.remove()
    ControlGroup(tmp_path).remove()
    assert tmp_path.exists()
