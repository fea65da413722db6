"""A process is signalled only if pid, start time and token match."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest

from supervisors.process.identity import ProcessIdentity, kill_group, kill_run
from supervisors.process.procfs import RUN_TOKEN, read_stat
from tests.anatomy import is_gone
from tests.conftest import wait_for

TOKEN = secrets.token_hex(8)


class Nursery:
    """Starts processes, and sees to it that none is left."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str, token: str = TOKEN, group: int | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command or ("sleep", "100"),
            env={**os.environ, RUN_TOKEN: token},
            process_group=group,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def leader_that_leaves(self, *, token: str = TOKEN) -> tuple[int, int, int]:
        """A group whose leader was reaped: (group, a child of it, a daemon: the child of a child that has ended)."""
        code = """
            import os, signal
            if (child := os.fork()) == 0:
                signal.pause()
            ours, theirs = os.pipe()
            if os.fork() == 0:
                daemon = os.fork()
                if daemon:
                    os.write(theirs, str(daemon).encode())
                    os._exit(0)
                signal.pause()
            print(child, os.read(ours, 100).decode(), flush=True)
            os._exit(0)
        """
        leader = self.start(sys.executable, "-c", textwrap.dedent(code), token=token, group=0)
        assert leader.stdout is not None
        child, daemon = map(int, leader.stdout.readline().split())
        leader.wait()
        return leader.pid, child, daemon


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """A nursery that is emptied after the test."""
    nursery = Nursery()
    yield nursery
    for process in nursery.processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_only_the_very_process_is_signalled(nursery: Nursery) -> None:
    """With another start time, or another token, nothing is sent; with all three right the signal arrives."""
    process = nursery.start()
    assert wait_for(lambda: ProcessIdentity.of(process.pid, TOKEN) is not None)
    known = ProcessIdentity.of(process.pid, TOKEN)
    assert known is not None
    assert known.is_alive()
    earlier = replace(known, start_time=known.start_time - 1)
    assert not earlier.is_alive()
    assert not earlier.send(signal.SIGKILL)
    assert not replace(known, token="another").send(signal.SIGKILL)
    assert process.poll() is None
    assert known.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not known.is_alive()
    assert not known.send(signal.SIGKILL)


def test_a_stranger_has_no_identity(nursery: Nursery) -> None:
    """Another run's process, a dead one and none at all are nobody."""
    process = nursery.start()
    assert ProcessIdentity.of(process.pid, "another") is None
    process.kill()
    assert wait_for(lambda: is_gone(process.pid))
    assert ProcessIdentity.of(process.pid, TOKEN) is None  # a zombie
    process.wait()
    assert ProcessIdentity.of(process.pid, TOKEN) is None


def test_what_a_dead_leader_left_in_its_group_is_killed(nursery: Nursery) -> None:
    """Child and double-forked daemon of a dead leader die; the pids are told."""
    group, child, daemon = nursery.leader_that_leaves()
    assert sorted(kill_group(group, TOKEN)) == sorted([child, daemon])
    assert wait_for(lambda: is_gone(child) and is_gone(daemon))
    assert kill_group(group, TOKEN) == []


def test_a_stranger_in_that_group_is_left_alone(nursery: Nursery) -> None:
    """A group of another run's processes, whose number happens to be the same, is not touched."""
    group, child, daemon = nursery.leader_that_leaves(token="another")
    assert kill_group(group, TOKEN) == []
    assert not is_gone(child)
    assert not is_gone(daemon)
    assert kill_group(group, "another")


def test_a_number_that_was_given_again_is_left_alone(nursery: Nursery) -> None:
    """A living leader of that number, of this very run, is a process that got the number later: it and its group live on."""
    leader = nursery.start(group=0)
    follower = nursery.start(group=leader.pid)
    assert kill_group(leader.pid, TOKEN) == []
    assert leader.poll() is None
    assert follower.poll() is None


def test_a_run_is_cleared_away_and_no_other(nursery: Nursery) -> None:
    """Everything of that run dies, whatever its group and session; other runs live on."""
    mine, other = nursery.start(group=0), nursery.start(token="another")
    assert wait_for(lambda: ProcessIdentity.of(mine.pid, TOKEN) is not None)
    assert kill_run(TOKEN) == [mine.pid]
    assert mine.wait() == -signal.SIGKILL
    assert other.poll() is None


def test_whoever_clears_up_spares_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that carries the token itself is not killed by its own clearing up."""
    monkeypatch.setattr("supervisors.process.identity.run_token", lambda pid: TOKEN if pid == os.getpid() else None)
    assert kill_run(TOKEN) == []


def test_the_state_of_a_process_with_an_odd_name() -> None:
    """A command name with blanks and parentheses does not shift the fields."""
    read, write = os.pipe()
    code = "import ctypes, os, sys; ctypes.CDLL(None).prctl(15, b') Z 1 2'); os.write(int(sys.argv[1]), b'x'); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(write)], pass_fds=[write], stdin=subprocess.PIPE) as process:
        os.read(read, 1)
        stat = read_stat(process.pid)
    os.close(read)
    os.close(write)
    assert stat is not None
    assert (stat.state in "SR", stat.parent, stat.group) == (True, os.getpid(), os.getpgid(0))
