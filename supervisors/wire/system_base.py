"""Thespian's multi-process system base, secured: an extension point of Thespian's, nothing of it is patched.

`start` boots an actor system from a `ControlPlane`: one fork makes Thespian's admin the direct child of the caller,
where Thespian's own start would fork twice and detach, so that nobody could tell whose the admin is. The caller
has one thread, and thereby the promise of parentage that PR_SET_PDEATHSIG relies on; setting that is the caller's
part (`supervisors.process.birth`), and so is reaping the admin.

The node is the caller. Nothing here is imported in a host process.
"""

import errno
import logging
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from thespian.actors import ActorSystem, InvalidActorAddress, WatchMessage
from thespian.system.logdirector import ThespianLogForwarder
from thespian.system.messages.admin import PendingActorResponse
from thespian.system.messages.multiproc import ChildMayHaveDied, EndpointConnected
from thespian.system.multiprocCommon import (
    MultiProcAdmin,
    _startLogger,
    detach_child,
    multiprocessCommon,
    signal_admin_sts,
)
from thespian.system.systemCommon import actorStartupFailed
from thespian.system.timing import ExpirationTimer
from thespian.system.transport import ReceiveEnvelope, TransmitIntent
from thespian.system.utilis import setProcName, thesplog_control

from supervisors.wire.control_codec import allow_message
from supervisors.wire.control_plane import ControlPlane, install, installed
from supervisors.wire.transport import SecuredTransport

__all__ = [
    "AdminStartError",
    "ControlPlane",
    "SecuredSystemBase",
    "admin_pid",
    "allow_message",
    "free_port",
    "install",
    "installed",
    "start",
]

_FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP)
_LOWEST_PORT = 10_000
_LOOK = 0.1


class AdminStartError(RuntimeError):
    """Raised by `start` when the admin did not come up: its port is taken, or it ended or stayed silent."""


class SecuredSystemBase(multiprocessCommon):
    """The object that `ActorSystem(systemBase=...)` takes. Made in the process that starts the system."""

    transportType = SecuredTransport

    def __init__(
        self,
        system: Any,
        logDefs: dict[str, Any] | None = None,
        meanwhile: Callable[[int], None] | None = None,
    ) -> None:
        """`system` has `capabilities`, which are completed in place. Uses the installed `ControlPlane`.

        `meanwhile`, if any, is called with the admin's pid every 0.1 s for as long as this waits; what it raises ends the wait.
        """
        # Thespian would write a log of its own into the temporary directory, from every process.
        thesplog_control(logging.CRITICAL + 1, useLogging=False, tmpFileMaxSize=0)
        self.admin: Any = None
        self._meanwhile = meanwhile
        system.capabilities.update(
            {
                "Thespian ActorSystem Name": "securedTCPBase",
                "Thespian ActorSystem Version": 1,
                "Thespian Watch Supported": True,
                "Process Startup Method": "fork",  # how key and lists come to the children
            }
        )
        system.capabilities.setdefault("Admin Port", installed().admin_port)
        try:
            super().__init__(system, logDefs)
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        if self.admin is not None:
            self.admin.kill()
            self.admin.join()
        if hasattr(self, "transport"):
            self.transport.close()

    def _startAdmin(self, adminAddr: Any, addrOfStarter: Any, capabilities: Any, logDefs: Any) -> None:
        if self.admin is not None:  # it came up and died at once
            self.admin.kill()
            self.admin.join()
        endpoint = self.transport.prepEndpoint(adminAddr, capabilities)
        self.admin = self.mpcontext.Process(
            target=_admin_main,
            args=(endpoint, adminAddr, addrOfStarter, capabilities, logDefs, self.mpcontext),
            name="ThespianAdmin",
        )
        self.admin.start()
        detach_child(self.admin)  # multiprocessing would wait for it when this process exits
        self.transport.connectEndpoint(endpoint)
        self._await_admin(installed().start_timeout)

    def _await_admin(self, timeout: float) -> None:
        """Wait until the admin and its logger have said that they are there; AdminStartError if they do not."""
        limit = ExpirationTimer(timeout)
        self.transport.set_watch([self.admin.sentinel])
        try:
            while not limit.view().expired():
                said = self._run_transport(limit.view().remaining())
                if isinstance(said, ReceiveEnvelope) and isinstance(said.message, EndpointConnected):
                    return
                if isinstance(said, ReceiveEnvelope) and isinstance(said.message, WatchMessage):
                    self.admin.join()
                    raise AdminStartError(f"the admin ended with exit status {self.admin.exitcode}")
        finally:
            self.transport.set_watch([])
        raise AdminStartError(f"the admin did not come up within {timeout} s")

    def _run_transport(
        self,
        maximumDuration: timedelta | None = None,
        txonly: bool = False,
        incomingHandler: Any = None,
    ) -> Any:
        """Thespian's wait for a message, in steps when there is something to do meanwhile."""
        if self._meanwhile is None or txonly:
            return super()._run_transport(maximumDuration, txonly, incomingHandler)
        limit = ExpirationTimer(maximumDuration)
        while True:
            self._meanwhile(0 if self.admin is None else self.admin.pid)
            remaining = limit.view().remaining(timedelta(seconds=_LOOK))
            said = super()._run_transport(min(remaining, timedelta(seconds=_LOOK)), txonly, incomingHandler)
            if said is not None or limit.view().expired():
                return said

    def shutdown(self) -> None:
        """Stop all actors and the admin, as far as they listen; the caller waits for their processes."""
        super().shutdown()
        if self.admin is not None:
            self.admin.join(1.0)


class _Admin(MultiProcAdmin):
    """Bears the death of its children: of the logger, and of an actor that dies before it has said that it is there.

    Thespian's own ends when its logger has died once, waits for ever for one that died at birth, and never answers who
    asked for an actor that died at birth.
    """

    _is_up = False

    def _handleReplicatorMessages(self, envelope: Any) -> tuple[bool, bool]:
        if isinstance(envelope.message, ChildMayHaveDied):  # not to be put off until there is a logger: it may be the one
            return True, bool(self.childDied())
        handled, going_on = super()._handleReplicatorMessages(envelope)
        return bool(handled), bool(going_on)

    def childDied(self) -> bool:
        """Called when any child has died."""
        before = list(getattr(self, "_child_procs", ()))
        going_on = bool(super().childDied())
        for child in before:
            if child not in self._child_procs and not hasattr(child, "childRealAddr"):
                for request in self._pendingChildren.pop(child.childNum, ()):
                    error = PendingActorResponse.ERROR_Invalid_ActorClass  # Thespian has no better one
                    self._sendPendingActorResponse(request, None, error, "it died before it said that it was there")
        return going_on

    def h_LoggerConnected(self, envelope: Any) -> bool:
        """Called in the admin when a logger is there: the first one completes the start, a later one replaces it."""
        if not self._is_up:
            self._is_up = True
            return bool(super().h_LoggerConnected(envelope))
        self.asLogger = envelope.sender
        logging.root = ThespianLogForwarder(self.asLogger, self.transport)
        logging.Logger.root = logging.root
        logging.Logger.manager = logging.Manager(logging.root)
        self._activate()
        return True


def _admin_main(  # noqa: PLR0913, PLR0917 - what Thespian's start of an admin takes
    endpoint: Any, address: Any, starter: Any, capabilities: Any, log_defs: Any, context: Any
) -> None:
    """The admin process, from its fork to its end: what Thespian's own start does after its second fork."""
    _own_signals()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the key
    transport = SecuredTransport(endpoint)
    try:
        admin = _Admin(transport, address, capabilities, log_defs, context)
    except Exception:
        transport.scheduleTransmit(
            None,
            TransmitIntent(starter, EndpointConnected(0)).addCallback(onFailure=actorStartupFailed),
        )
        raise
    admin.addrOfStarter = starter  # told once the logger is there
    admin.logDefs = log_defs  # Thespian has it under another name, and looks for it here to replace a dead logger
    setProcName(MultiProcAdmin.__name__, transport.myAddress)
    signal.signal(signal.SIGCHLD, admin.signalChildDied)
    signal.signal(signal.SIGUSR1, signal_admin_sts(admin))
    _startLogger(SecuredTransport, transport, admin, capabilities, log_defs, context)
    # An admin that only sends until its queue is empty can wait for an actor that does the same.
    transport.enableRXPauseFlowControl(False)
    admin.run()


def _own_signals() -> None:
    """Let nothing of the caller's signal handling live on in the admin, nor in the logger that it forks."""
    signal.set_wakeup_fd(-1)
    for number in (*_FATAL, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for number in _TERMINAL:  # sent to the terminal's whole process group: the node decides what it means
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def start(
    control_plane: ControlPlane,
    capabilities: dict[str, Any] | None = None,
    log_defs: dict[str, Any] | None = None,
    meanwhile: Callable[[int], None] | None = None,
) -> ActorSystem:
    """Install the configuration, fork the admin, and return the running actor system.

    Called in the node, which has one thread. When the port is still held by a tree that is just dying, it waits for
    up to `ControlPlane.start_timeout` seconds. `meanwhile` is called several times a second with the admin's pid, 0 before
    its fork, and may raise. Raises AdminStartError, or what `meanwhile` raised; no process is left then.
    """
    install(control_plane)
    _await_port(control_plane, meanwhile)
    caps = {
        "AllowRemoteActorSources": "no",
        **(capabilities or {}),
        "Admin Port": control_plane.admin_port,
    }
    try:
        base = SecuredSystemBase(SimpleNamespace(capabilities=caps), log_defs, meanwhile)
    except InvalidActorAddress as error:
        raise AdminStartError(str(error)) from error
    return ActorSystem(systemBase=base, capabilities=caps, transientUnique=True)


def admin_pid(system: ActorSystem) -> int:
    """The pid of the admin of a system that `start` returned; a child of the process that called it."""
    return int(system._systemBase.admin.pid)


def _await_port(plane: ControlPlane, meanwhile: Callable[[int], None] | None) -> None:
    deadline = time.monotonic() + plane.start_timeout
    while not _is_free(plane.bind, plane.admin_port):
        if meanwhile is not None:
            meanwhile(0)
        if time.monotonic() > deadline:
            raise AdminStartError(f"{plane.bind}:{plane.admin_port} is in use by another process")
        time.sleep(0.002)


def _is_free(bind: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def free_port(bind: str = "127.0.0.1") -> int:
    """A port on which nothing listens now, and that the kernel gives to no outgoing connection later.

    A tree that is to come back on its port would otherwise find it taken by a connection of anyone's.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    ports = range(_LOWEST_PORT, max(ephemeral, _LOWEST_PORT + 1000))
    choose = random.SystemRandom().choice
    for _ in range(1000):
        port = choose(ports)
        if _is_free(bind, port):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {bind} in {ports}")
