"""What the node and the supervisors see in `/proc`: who is stopped, who is an orphan."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from supervisors.process.procfs import children_of, every_stat, read_stat, run_token, thread_names
from supervisors.process.stopped import StoppedLook
from tests.anatomy import run_script
from tests.conftest import wait_for


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that does nothing."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process.pid
        process.kill()


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    assert wait_for(lambda: (stat := read_stat(pid)) is not None and stat.stopped)


def test_two_looks_in_a_row_make_it_stopped(sleeper: int) -> None:
    """The first look says nothing, the second tells, once."""
    look = StoppedLook()
    assert look.look([sleeper]) == []
    _stop(sleeper)
    assert look.look([sleeper]) == []
    assert look.look([sleeper]) == [sleeper]
    assert look.look([sleeper]) == []


def test_a_process_stopped_for_a_moment_is_left_alone(sleeper: int) -> None:
    """One that runs again at the second look starts from nothing, and so does one that was not looked at."""
    look = StoppedLook()
    _stop(sleeper)
    look.look([sleeper])
    os.kill(sleeper, signal.SIGCONT)
    assert wait_for(lambda: (stat := read_stat(sleeper)) is not None and not stat.stopped)
    assert look.look([sleeper]) == []
    _stop(sleeper)
    assert look.look([sleeper]) == []
    assert look.look([]) == []
    assert look.look([sleeper]) == []


def test_the_facts_of_a_process_that_is_gone(sleeper: int) -> None:
    """No error, just nothing."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert read_stat(process.pid) is None
    assert run_token(process.pid) is None
    assert children_of(process.pid) == []
    assert sleeper in children_of(os.getpid())
    assert sleeper in {stat.pid for stat in every_stat()}
    assert "MainThread" in thread_names()


def test_orphans_come_home_and_are_buried() -> None:
    """A subreaper reaps dead orphans, kills those whose group has lost its leader, and leaves those whose leader lives."""
    lines = run_script("""
        import os, signal, time
        from supervisors.process.birth import become_subreaper
        from supervisors.process.descendants import bury_orphans
        from supervisors.process.procfs import children_of
        become_subreaper()
        ours, theirs = os.pipe()

        def worker(ends):
            # A leader with a daemon: a child of a child that has ended.
            pid = os.fork()
            if pid:
                return pid, int(os.read(ours, 100))
            os.setpgid(0, 0)
            if os.fork() == 0:
                if (daemon := os.fork()) == 0:
                    signal.pause()
                os.write(theirs, str(daemon).encode())
                os._exit(0)
            os.wait()
            if ends:
                os._exit(0)
            signal.pause()

        spare = os.fork() or signal.pause()
        living, kept = worker(False)
        dead, killed = worker(True)
        os.waitpid(dead, 0)
        print(bury_orphans(spare) == [killed])
        while killed in children_of(os.getpid()):
            assert bury_orphans(spare) in ([], [killed])
        print(sorted(children_of(os.getpid())) == sorted([spare, living, kept]))
        for pid in (spare, living, kept):
            os.kill(pid, signal.SIGKILL)
    """)
    assert lines == ["True", "True"]


def test_no_descendant_is_left() -> None:
    """`kill_descendants` ends children, their children, and a daemon with a session of its own, and waits for each."""
    lines = run_script("""
        import os, signal
        from supervisors.process.birth import become_subreaper
        from supervisors.process.descendants import kill_descendants
        become_subreaper()
        ours, theirs = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    os.write(theirs, b"x")
                    signal.pause()
                os._exit(0)
            signal.pause()
        os.read(ours, 1)
        print(kill_descendants(5.0))
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("none")
    """)
    assert lines == ["True", "none"]
