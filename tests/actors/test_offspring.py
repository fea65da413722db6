"""One living child, as its supervisor knows it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from supervisors.actors.birth_record import Surroundings
from supervisors.actors.offspring import Offspring, tidy
from supervisors.actors.report import ReportReader, open_reports
from supervisors.actors.supervisor_actor import _Life
from tests.conftest import wait_for


def offspring(pid: int) -> Offspring:
    """Of a process that no supervisor forked."""
    ours, theirs = open_reports()
    os.close(theirs)
    surroundings = Surroundings(Path("/nowhere"), "token", frozenset(), frozenset())
    return Offspring("x", 1, None, pid, os.pidfd_open(pid), ReportReader(ours), surroundings, cast("Any", None))


def test_an_old_event_buries_nobody_alive() -> None:
    """The number of a dead child's descriptor is given to the next one's: an event that was meant for the first is ignored."""
    with subprocess.Popen(["sleep", "100"]) as process:
        known = offspring(process.pid)
        life = cast("Any", SimpleNamespace(_living={"x": known}))
        _Life._bury(life, known)
        assert life._living == {"x": known}
        known.kill()
        assert process.wait() == -signal.SIGKILL
        os.close(known.pidfd)
        known.reports.close()


def test_whether_a_child_has_ended() -> None:
    """The kernel says so, without reaping it; and one that somebody else has reaped has ended, too."""
    with subprocess.Popen(["sleep", "100"]) as process:
        known = offspring(process.pid)
        assert not known.has_ended()
        known.kill()
        assert wait_for(known.has_ended)
        assert process.wait() == -signal.SIGKILL
        assert known.has_ended()
        known.kill()  # does nothing
        os.close(known.pidfd)
        known.reports.close()


def test_only_the_sockets_of_the_dead_are_removed(tmp_path: Path) -> None:
    """What has the pid of a living process, or no pid in its name, stays."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    stay = {f"s{os.getpid()}", f"d{os.getpid()}", "lock", "root", "registry"}
    for name in (*stay, f"s{process.pid}", f"d{process.pid}"):
        (tmp_path / name).touch()
    tidy(Surroundings(tmp_path, "token", frozenset(), frozenset()))
    assert {each.name for each in tmp_path.iterdir()} == stay
