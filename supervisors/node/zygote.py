"""The node process: a zygote. It has one thread and no event loop; it forks, polls pidfds, reaps, and does nothing else.

It watches its owner (when it is embedded), Thespian's admin, and the root supervisor, whose death nobody else hears of.
When admin or root end, everything of that tree is killed and a fresh one is booted on the same port. When the owner ends,
or the node is told to stop, the tree is stopped in order, then killed, and the directory is removed.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import select
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisors.actors import logs
from supervisors.actors.birth_record import Surroundings
from supervisors.errors import NodeError, StartFailed, SupervisorsError
from supervisors.exchange import REGISTRY, ROOT_DOOR
from supervisors.exits import Crash, ExitReason, Lost, Shutdown
from supervisors.node.boot import ROOT_ACTOR, Tree, boot
from supervisors.node.config import NodeConfig
from supervisors.process.birth import arm, assert_single_thread, become_subreaper
from supervisors.process.counters import SharedCounters
from supervisors.process.procfs import RUN_TOKEN, children_of, read_stat
from supervisors.registry import Registry
from supervisors.rundir import RunDirectory
from supervisors.spec import Supervisor, child, modules_of
from supervisors.strategy import record_restart, within_intensity
from supervisors.wire import frames
from supervisors.wire.sealing import Rejection
from supervisors.wire.system_base import ControlPlane, free_port
from supervisors.wire.vocabulary import StopTree

__all__ = ["Zygote"]

BOOT_TIMEOUT = 5.0
"""Seconds from the admin's fork to the root's birth."""
OWNER_GONE_TIMEOUT = 1.5
"""Seconds that a tree has to stop in order when nobody is left who could want it."""
MOST_BOOTS, BOOT_WINDOW = 5, 30.0
"""A node that has booted more often than that within so many seconds gives up and says why."""
TICK = 0.25
_STILL_STOPPED = 2
_KILL_TIMEOUT = 3.0

log = logging.getLogger("supervisors.node")


class Zygote:
    """One node, from its configuration to its end. `tell` reports to the host: `{"ready": ...}` or `{"failed": ...}`."""

    def __init__(self, config: NodeConfig, tell: Any) -> None:
        self._config = config
        self._tell = tell
        self._directory = RunDirectory(Path(config.directory))
        self._token = os.environ[RUN_TOKEN]
        self._counters = SharedCounters([*Rejection, "node.boots"])
        self._port = 0
        self._boots: tuple[float, ...] = ()
        self._tree: Tree | None = None
        self._owner = -1
        self._wakeup = (-1, -1)
        self._signals = 0
        self._ready = False
        self._begun = 0.0
        self._stopped: dict[int, int] = {}
        allowed = config.allowed | modules_of(config.tree) | {Registry.__module__}
        self._surroundings = Surroundings(
            directory=self._directory.path,
            token=self._token,
            allowed=frozenset(allowed),
            kept=frozenset({0, 1, 2, *self._counters.fds}),
        )
        self._root = Supervisor(config.name, (child(Registry, id=REGISTRY, name=REGISTRY, shutdown=1.0), config.tree))

    def run(self) -> int:
        """From the first line to the exit status. Called once, in the process's only thread."""
        arm()
        become_subreaper()
        try:
            self._prepare()
            status = self._live()
        except (SupervisorsError, OSError) as error:
            log.error("%s", error)  # noqa: TRY400 - one clear sentence; the traceback is at debug
            log.debug("the node failed", exc_info=True)
            reason = error.reason if isinstance(error, StartFailed) else Crash(type(error).__name__, str(error))
            self._tell({"failed": reason})
            status = 1
        finally:
            self._kill_everything()
            self._directory.remove()
        return status

    # -- before the first fork -----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        logs.configure(self._config.log_level)
        self._watch_signals()
        self._watch_owner()
        self._directory.take()
        assert_single_thread()  # after all that was imported, and before the first fork
        self._port = free_port()
        logs.remember()
        gc.collect()
        gc.disable()  # a collection would touch, and so copy, every page that the children share
        gc.freeze()

    def _watch_signals(self) -> None:
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only for the wake-up

    def _on_signal(self, number: int, _frame: Any) -> None:
        log.info("signal %s: stopping", signal.Signals(number).name)
        self._signals += 1

    def _watch_owner(self) -> None:
        if self._config.owner is not None:
            try:
                self._owner = os.pidfd_open(self._config.owner)
            except OSError:
                raise NodeError(f"the process {self._config.owner} that owns this node is gone already") from None

    # -- life ----------------------------------------------------------------------------------------------------------

    def _live(self) -> int:
        self._boot()
        while True:
            ended = self._wait()
            if ended is None:
                continue
            if self._signals or self._owner_gone():
                return self._stop("the owner is gone" if self._owner_gone() else "a signal")
            reason, asked = ended
            self._kill_everything()
            if asked:
                log.info("the tree has stopped: %s", reason)
                return 0
            if not self._ready:
                raise StartFailed(self._config.name, reason)
            log.error("the tree broke (%s); booting a fresh one", reason)
            self._boot_again(reason)

    def _boot(self) -> None:
        self._boots = record_restart(self._boots, time.monotonic(), BOOT_WINDOW)
        self._counters.add("node.boots")
        plane = ControlPlane(
            key=secrets.token_bytes(32),  # of this boot only: nothing recorded from an earlier one means anything
            admin_port=self._port,
            allowed_actors=frozenset({ROOT_ACTOR}),
            counters=self._counters,
        )
        self._begun = time.monotonic()
        self._tree = boot(plane, self._root, self._surroundings, BOOT_TIMEOUT)

    def _boot_again(self, reason: ExitReason) -> None:
        while True:
            if not within_intensity(self._boots, MOST_BOOTS):
                limit = f"{MOST_BOOTS} boots in {BOOT_WINDOW:g} s"
                raise StartFailed(self._config.name, Shutdown(f"the tree broke too often ({limit}); last: {reason}"))
            self._directory.clear()
            try:
                self._boot()
            except (NodeError, OSError) as error:
                log.error("booting failed: %s", error)  # noqa: TRY400 - one sentence, and again
                self._kill_everything()
            else:
                return

    def _wait(self) -> tuple[ExitReason, bool] | None:
        """Sleep until something happens or a tick passes. Returns how the tree ended, and whether it was asked to, or None."""
        tree = self._tree
        assert tree is not None  # noqa: S101 - there is one while the node lives
        poll = select.poll()
        watched = {self._wakeup[0], self._owner, tree.admin, tree.root, tree.reports.descriptor} - {-1}
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(TICK * 1000)}
        with suppress(BlockingIOError):
            os.read(self._wakeup[0], 4096)
        said = self._listen(tree)
        self._reap(tree)
        if self._signals or self._owner_gone():
            return Shutdown("told to stop"), True
        if said is not None:
            return said
        if tree.root in ready:
            return Lost("the root supervisor died"), False
        if tree.admin in ready:
            return Lost("Thespian's admin died"), False
        self._find_stopped(tree)
        start_timeout = self._root.start_timeout + BOOT_TIMEOUT
        if not tree.ready and time.monotonic() - self._begun > start_timeout:
            return Lost(f"the tree was not up within {start_timeout:g} s"), False
        return None

    def _listen(self, tree: Tree) -> tuple[ExitReason, bool] | None:
        """What the root says. Returns its end, if that is it."""
        for report in tree.reports.read():
            if "born" in report:
                tree.root_pid = report["born"]
                with suppress(OSError):
                    tree.root = os.pidfd_open(tree.root_pid)
                if tree.root < 0:
                    return Lost("the root supervisor died at once"), False
            if "ready" in report:
                if not self._ready:
                    self._tell({"ready": str(self._directory.path)})
                self._ready = tree.ready = True
                log.info("the tree is up, %.0f ms after its boot", 1000 * (time.monotonic() - self._begun))
            if "exit" in report:
                return report["exit"], bool(report["asked"])
        return None

    def _owner_gone(self) -> bool:
        if self._owner < 0:
            return False
        poll = select.poll()
        poll.register(self._owner, select.POLLIN)
        return bool(poll.poll(0))

    def _find_stopped(self, tree: Tree) -> None:
        """Kill the admin, or a child of it (root, logger), that a signal has stopped: nobody else watches over them."""
        watched = {tree.admin_pid, *children_of(tree.admin_pid)}
        for pid in watched:
            stat = read_stat(pid)
            count = self._stopped.get(pid, 0) + 1 if stat is not None and stat.stopped else 0
            self._stopped[pid] = count
            if count >= _STILL_STOPPED:
                log.error("process %d was stopped by a signal and did not run any more; killing it", pid)
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)  # a child of ours, or of a child of ours: not reaped, so still that one
        self._stopped = {pid: count for pid, count in self._stopped.items() if pid in watched}

    def _reap(self, tree: Tree) -> None:
        """Bury the orphans that this subreaper inherited, and kill those whose worker is gone.

        An adopted process that still has its process group's leader was started by a living worker, and stays.
        """
        for pid in children_of(os.getpid()):
            stat = read_stat(pid)
            if pid == tree.admin_pid or stat is None:
                continue
            leader = read_stat(stat.group)
            if not stat.dead and (leader is None or leader.dead):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)  # our child by adoption, not reaped: certainly that one
            if stat.dead:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    # -- the end of a tree -----------------------------------------------------------------------------------------------

    def _stop(self, why: str) -> int:
        """Stop the tree in order, within a bound; a second signal ends the patience."""
        patience = OWNER_GONE_TIMEOUT if self._owner_gone() else self._config.stop_timeout
        log.info("stopping the tree: %s", why)
        deadline = time.monotonic() + patience
        signals = self._signals
        tree = self._tree
        assert tree is not None  # noqa: S101
        self._ask_root_to_stop()
        while time.monotonic() < deadline and self._signals == signals:
            ended = self._listen(tree)
            if ended is not None:
                break
            poll = select.poll()
            for descriptor in {self._wakeup[0], tree.root, tree.reports.descriptor} - {-1}:
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(100)}
            with suppress(BlockingIOError):
                os.read(self._wakeup[0], 4096)
            if tree.root in ready and tree.reports.descriptor not in ready:
                break
        return 0

    def _ask_root_to_stop(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(0.5)
            door.connect(str(self._directory.path / ROOT_DOOR))
            door.sendall(frames.encode_call(1, None, None, None, StopTree()))
            door.recv(1024)

    def _kill_everything(self) -> None:
        """SIGKILL whatever descends from this process, and wait until it is gone. It is the subreaper: all come home."""
        deadline = time.monotonic() + _KILL_TIMEOUT
        while time.monotonic() < deadline:
            for pid in children_of(os.getpid()):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            time.sleep(0.001)
        if self._tree is not None:
            self._tree.close()
            self._tree = None
