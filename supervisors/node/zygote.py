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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisors.actors import logs
from supervisors.actors.birth_record import Surroundings
from supervisors.errors import StartFailed, SupervisorsError
from supervisors.exchange import REGISTRY, ROOT_DOOR
from supervisors.exits import Crash, ExitReason, Lost, Shutdown, StartTimeout
from supervisors.node.boot import ROOT_ACTOR, BootFailed, Tree, boot
from supervisors.node.config import NodeConfig
from supervisors.node.lookout import Lookout
from supervisors.process.birth import arm, assert_single_thread, become_subreaper, end_native_pools
from supervisors.process.cgroup import ControlGroup
from supervisors.process.counters import SharedCounters
from supervisors.process.descendants import bury_orphans, kill_descendants
from supervisors.process.identity import ProcessIdentity
from supervisors.process.procfs import RUN_TOKEN, children_of
from supervisors.process.stopped import StoppedLook
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
"""How many fresh trees may follow a broken one within so many seconds; with one more the node gives up and says why."""
TICK = 0.25
"""Seconds between two looks for processes that a signal has stopped."""
_STOP_TURN = 0.1
_KILL_TIMEOUT = 3.0

log = logging.getLogger("supervisors.node")


class Zygote:
    """One node, from its configuration to its end. `tell` reports to the host: `{"ready": ...}` or `{"failed": ...}`."""

    def __init__(self, config: NodeConfig, tell: Callable[[dict[str, Any]], None]) -> None:
        self._config = config
        self._tell = tell
        self._directory = RunDirectory(Path(config.directory))
        self._token = os.environ[RUN_TOKEN]
        self._counters = SharedCounters([*Rejection, "node.boots"])
        self._port = 0
        self._reboots: tuple[float, ...] = ()
        self._tree: Tree | None = None
        self._ready = False
        self._begun = 0.0
        self._looked = 0.0
        self._stopped = StoppedLook()
        self._cgroup: ControlGroup | None = None
        self._root = Supervisor(config.name, (child(Registry, id=REGISTRY, name=REGISTRY, shutdown=1.0), config.tree))

    def run(self) -> int:
        """From the first line to the exit status: 0 when it stopped in order. Called once, in the process's only thread."""
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
        except Exception as error:
            log.exception("the node failed")
            self._tell({"failed": Crash.from_exception(error)})
            status = 1
        finally:
            self._clear_away()
            if self._cgroup is not None:
                self._cgroup.remove()
            self._directory.remove()
        return status

    # -- before the first fork -----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        output = logs.configure(self._config.log_level)
        self._cgroup = ControlGroup.make(secrets.token_hex(4))
        self._surroundings = Surroundings(
            directory=self._directory.path,
            token=self._token,
            allowed=self._config.allowed | modules_of(self._config.tree) | {Registry.__module__},
            kept=frozenset({0, 1, 2, output, *self._counters.fds}),
            cgroup=self._cgroup,
        )
        self._lookout = Lookout(self._config.owner)
        self._directory.take(self._token, self._cgroup)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)  # nobody of the tree reads the terminal, which would stop it, nor the host's pipe
        os.close(nothing)
        end_native_pools()
        assert_single_thread()  # after all that was imported, and before the first fork that matters
        self._port = free_port()
        logs.remember()
        gc.collect()
        gc.disable()  # a collection would touch, and so copy, every page that the children share
        gc.freeze()

    # -- life ----------------------------------------------------------------------------------------------------------

    def _live(self) -> int:
        self._boot()
        while True:
            why = self._lookout.why_stop()
            if why is not None:
                return self._stop(why)
            tree = self._tree
            assert tree is not None  # noqa: S101 - there is one, unless the lookout says stop
            ended = self._turn(tree, TICK) or self._overdue(tree)
            if ended is None:
                continue
            reason, asked = ended
            if asked:
                log.info("the tree has stopped: %s", reason)
                return 0
            if not self._ready and not isinstance(reason, Lost):
                raise StartFailed(self._config.name, reason)  # the tree itself says that it does not start
            self._again(reason)

    def _boot(self) -> None:
        """Boot a tree; another one when something ends that boot. There is none afterwards only if the node is to stop."""
        self._counters.add("node.boots")
        plane = ControlPlane(
            key=secrets.token_bytes(32),  # of this boot only: nothing recorded from an earlier one means anything
            admin_port=self._port,
            allowed_actors=frozenset({ROOT_ACTOR}),
            counters=self._counters,
        )
        self._begun = time.monotonic()
        try:
            self._tree = boot(plane, self._root, self._surroundings, BOOT_TIMEOUT, self._meanwhile)
        except BootFailed as error:
            if self._lookout.why_stop() is None:
                self._again(Lost(str(error)))

    def _again(self, reason: ExitReason) -> None:
        """Clear the broken tree away and boot a fresh one, unless that has been too often."""
        self._clear_away()
        self._reboots = record_restart(self._reboots, time.monotonic(), BOOT_WINDOW)
        if not within_intensity(self._reboots, MOST_BOOTS):
            limit = f"{MOST_BOOTS} fresh trees in {BOOT_WINDOW:g} s"
            raise StartFailed(self._config.name, Shutdown(f"the tree broke too often ({limit}); last: {reason}"))
        log.error("the tree broke (%s); booting a fresh one", reason)
        self._directory.clear()
        self._boot()

    def _meanwhile(self, admin_pid: int) -> None:
        """Called while a tree boots: what else this process has to look at. Raises `BootFailed` when the node is to stop."""
        self._lookout.drain()
        why = self._lookout.why_stop()
        if why is not None:
            raise BootFailed(why)
        if admin_pid:
            self._find_stopped(admin_pid)

    def _turn(self, tree: Tree, seconds: float) -> tuple[ExitReason, bool] | None:
        """Sleep until something happens or that time passes. Returns how the tree ended, and whether it was asked to, or None."""
        poll = select.poll()
        for descriptor in self._lookout.descriptors | {tree.admin, tree.root, tree.reports.descriptor} - {-1}:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        self._lookout.drain()
        said = self._listen(tree)
        for pid in bury_orphans(spare=tree.admin_pid):
            log.warning("killed %d, whose server is gone", pid)
        if said is not None:
            return said
        if tree.admin in ready:
            return Lost("Thespian's admin died"), False
        if tree.root in ready:
            return Lost("the root supervisor died"), False
        self._find_stopped(tree.admin_pid)
        return None

    def _listen(self, tree: Tree) -> tuple[ExitReason, bool] | None:
        """What the root says. Returns its end, if that is it."""
        for report in tree.reports.read():
            if "born" in report and not tree.born(report["born"]):
                return Lost("the root supervisor died at once"), False
            if "ready" in report:
                if not self._ready:
                    self._tell({"ready": str(self._directory.path)})
                self._ready = tree.ready = True
                log.info("the tree is up, %.0f ms after its boot", 1000 * (time.monotonic() - self._begun))
            if "exit" in report:
                return report["exit"], bool(report["asked"])
        return None

    def _overdue(self, tree: Tree) -> tuple[ExitReason, bool] | None:
        start_timeout = self._root.start_timeout + BOOT_TIMEOUT
        if tree.ready or time.monotonic() - self._begun < start_timeout:
            return None
        return StartTimeout(start_timeout), False

    def _find_stopped(self, admin_pid: int) -> None:
        """Kill the admin, or a child of it (root, logger), that a signal has stopped: nobody else watches over them."""
        now = time.monotonic()
        if now - self._looked < TICK:
            return
        self._looked = now
        for pid in self._stopped.look([admin_pid, *children_of(admin_pid)]):
            known = ProcessIdentity.of(pid, self._token)
            if known is not None and known.send(signal.SIGKILL):
                log.error("process %d was stopped by a signal and did not run any more; killed it", pid)

    # -- the end of a tree -----------------------------------------------------------------------------------------------

    def _stop(self, why: str) -> int:
        """Stop the tree in order, within a bound; one more signal ends the patience. Returns the exit status."""
        log.info("stopping the tree: %s", why)
        begun, signals = time.monotonic(), self._lookout.signals
        door = None
        try:
            while self._tree is not None:
                patience = OWNER_GONE_TIMEOUT if self._lookout.owner_gone() else self._config.stop_timeout
                if self._lookout.signals > signals or time.monotonic() - begun > patience:
                    log.warning("the tree did not stop in order; killing it")
                    return 1
                door = door or self._ask_root_to_stop()
                ended = self._turn(self._tree, _STOP_TURN)
                if ended is not None:
                    return 0 if ended[1] else 1
        finally:
            if door is not None:
                door.close()
        return 0

    def _ask_root_to_stop(self) -> socket.socket | None:
        """The connection on which the root was asked, or None when it could not be."""
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            door.connect(str(self._directory.path / ROOT_DOOR))
            door.sendall(frames.encode_call(1, None, None, None, StopTree()))
        except OSError:
            door.close()
            return None
        return door

    def _clear_away(self) -> None:
        """Kill the whole tree, wait until it is gone, and forget it."""
        if not kill_descendants(_KILL_TIMEOUT):
            log.error("something did not die within %g s", _KILL_TIMEOUT)
        if self._tree is not None:
            self._tree.close()
            self._tree = None
        if self._cgroup is not None:
            self._cgroup.tidy()
        gc.collect()  # what that boot has left, pipes among it; nothing of what was frozen is touched
