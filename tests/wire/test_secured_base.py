"""A whole actor system on the secured base: its processes, ports, signals and refusals."""

import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from thespian.actors import ActorExitRequest, ActorSystem, ActorSystemFailure
from thespian.system import utilis
from thespian.system.messages.admin import PendingActor
from thespian.system.transport import TCPTransport, streamBuffer

from supervisors.process.counters import SharedCounters
from supervisors.wire import control_plane, system_base
from supervisors.wire.control_plane import ControlPlane, install
from supervisors.wire.sealing import Rejection
from supervisors.wire.system_base import AdminStartError, admin_pid, free_port, start
from supervisors.wire.transport import SecuredTransport
from tests.wire.control_actors import Counting, Parent, Told, Unlisted

pytestmark = pytest.mark.timeout(60)

FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
ASK = 10.0


def wait_until(holds: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait for a state of other processes, of which no event tells this one."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.002)


def class_path(cls: type) -> str:
    """How a create request names an actor's class."""
    return f"{cls.__module__}.{cls.__name__}"


class Floor:
    """A running system, and all processes that ever belonged to it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.system: ActorSystem = start(plane, log_defs={"version": 1})
        self.admin = psutil.Process(admin_pid(self.system))
        self.seen: set[psutil.Process] = set()
        self.processes()

    def processes(self) -> list[psutil.Process]:
        alive = [self.admin, *self.admin.children(recursive=True)]
        self.seen.update(alive)
        return alive

    @property
    def logger(self) -> psutil.Process:
        return min(self.admin.children(), key=lambda process: process.pid)

    def create(self, cls: type) -> Any:
        address = self.system.createActor(cls)
        self.processes()
        return address

    def ask(self, address: Any, message: object) -> Any:
        return self.system.ask(address, message, ASK)

    def pid(self, address: Any) -> int:
        return int(self.ask(address, "pid"))

    def rejections(self) -> dict[Rejection, int]:
        return {reason: count for reason, count in self.plane.rejections().items() if count}

    def stop(self) -> None:
        base = self.system._systemBase
        if base is not None and is_alive(self.admin):
            self.processes()
            self.system.shutdown()
        elif base is not None:
            base.transport.close()
        for process in self.seen:
            if is_alive(process):
                process.kill()
        wait_until(lambda: not any(is_alive(process) for process in self.seen))


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """What is forked inside writes to a file, so that no process holds the output of the test run."""
    saved = [os.dup(fd) for fd in (1, 2)]
    with path.open("wb") as file:
        for fd in (1, 2):
            os.dup2(file.fileno(), fd)
    try:
        yield
    finally:
        for fd, kept in zip((1, 2), saved, strict=True):
            os.dup2(kept, fd)
            os.close(kept)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A configuration with a fresh key and port, uninstalled afterwards."""
    counters = SharedCounters(Rejection)
    before = control_plane._Process.plane
    yield ControlPlane(
        key=os.urandom(32),
        admin_port=free_port(),
        allowed_actors=frozenset({class_path(Counting), class_path(Parent)}),
        counters=counters,
        frame_timeout=0.5,
        max_strangers=16,
    )
    control_plane._Process.plane = before
    counters.close()


@pytest.fixture
def boot(plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[..., Floor]]:
    """Boots systems, and leaves no process of theirs behind."""
    floors: list[Floor] = []

    def boot(changed: ControlPlane = plane) -> Floor:
        with output_to(tmp_path / f"output-{len(floors)}"):
            floors.append(Floor(changed))
        return floors[-1]

    yield boot
    for floor in reversed(floors):
        floor.stop()


@pytest.fixture
def floor(boot: Callable[[], Floor]) -> Floor:
    """A running system."""
    return boot()


def listening_ports(processes: list[psutil.Process]) -> dict[int, tuple[str, psutil.Process]]:
    """Each port on which one of `processes` listens, with its address and that process; fails when two share one."""
    found = {}
    for process in processes:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.port not in found, "two processes hold one listening socket"
                found[connection.laddr.port] = connection.laddr.ip, process
    return found


def say(port: int, data: bytes) -> bytes:
    """What a raw connection hears after it has said something; nothing when it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(data)
        try:
            return stranger.recv(4096)
        except ConnectionResetError:
            return b""


# --- a life


def test_a_system_starts_creates_answers_and_ends(floor: Floor) -> None:
    """Create, ask, tell, exit and shutdown do what they do on the stock base, and nothing is rejected."""
    address = floor.create(Counting)
    assert floor.ask(address, {"n": (1, 2)}) == {"n": (1, 2)}
    floor.system.tell(address, Told("hello"))
    assert floor.ask(address, "told") == ["hello"]
    process = psutil.Process(floor.pid(address))
    floor.system.tell(address, ActorExitRequest())
    wait_until(lambda: not is_alive(process))
    assert floor.rejections() == {}
    processes = floor.processes()
    floor.system.shutdown()
    wait_until(lambda: not any(is_alive(process) for process in processes))
    assert not psutil.pid_exists(floor.admin.pid), "the admin was not reaped"


def test_a_parent_creates_children_and_hears_of_their_end(floor: Floor) -> None:
    """An actor's own children come up without a request, and their death reaches it."""
    parent = floor.create(Parent)
    child = floor.ask(parent, "create")
    os.kill(child, signal.SIGKILL)
    assert floor.system.listen(ASK) == "exited"


def test_the_admin_is_a_direct_child(floor: Floor) -> None:
    """One fork: the admin's parent is this process, in its session, and its pid is known."""
    assert floor.admin.ppid() == os.getpid()
    assert os.getsid(floor.admin.pid) == os.getsid(0)
    assert floor.logger.ppid() == floor.admin.pid


def test_nothing_is_unpickled_from_start_to_end(
    boot: Callable[..., Floor], plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every way to a pickle trapped in all processes, a whole life runs, and no trap is sprung."""
    assert plane.counters is not None
    with_trap = SharedCounters([*Rejection, "unpickled"])

    def trap(*_: object, **__: object) -> object:
        with_trap.add("unpickled")
        raise AssertionError("something was about to be unpickled")

    class Trapped:
        loads = staticmethod(trap)
        dumps = staticmethod(trap)

    monkeypatch.setattr(pickle, "loads", trap)
    monkeypatch.setattr(pickle, "load", trap)
    monkeypatch.setattr(pickle, "Unpickler", trap)
    monkeypatch.setattr(TCPTransport, "serializer", Trapped)
    monkeypatch.setattr(streamBuffer.ReceiveBuffer, "completed", trap)
    monkeypatch.setattr(streamBuffer.ReceiveBuffer, "addMore", trap)
    floor = boot(replace(plane, counters=with_trap))
    address = floor.create(Counting)
    parent = floor.create(Parent)
    assert floor.ask(address, "hello") == "hello"
    assert psutil.pid_exists(floor.ask(parent, "create"))
    for port in listening_ports(floor.processes()):
        say(port, pickle.dumps("hello"))
    with pytest.raises(ActorSystemFailure):
        floor.create(Unlisted)
    floor.system.tell(address, ActorExitRequest())
    floor.stop()
    counts = with_trap.snapshot()
    assert counts["unpickled"] == 0
    assert counts["magic"] > 0
    with_trap.close()


# --- who may come in


def test_a_pickle_to_any_port_runs_nothing_and_is_counted(floor: Floor, tmp_path: Path) -> None:
    """Admin, logger, actor and starter refuse a pickle on their ports; each refusal is counted."""
    address = floor.create(Counting)
    bait = tmp_path / "bait"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(bait),)

    ports = listening_ports(floor.processes())
    assert {process for _, process in ports.values()} >= {floor.admin, floor.logger}
    assert len(ports) == 3
    for count, port in enumerate(ports, start=1):
        assert say(port, pickle.dumps(Attack())) == b""
        assert say(port, streamBuffer.toSendBuffer((address, Attack()))) == b""
        assert floor.rejections() == {Rejection.MAGIC: 2 * count}
    assert floor.ask(address, "still there") == "still there"
    assert not bait.exists()


def recorded(transport: SecuredTransport, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The frames that a transport sends from now on, as one would record them on their way."""
    frames: list[bytes] = []
    seal = transport.serializer

    def seal_and_record(intent: Any) -> bytes:
        frames.append(seal(intent))
        return frames[-1]

    monkeypatch.setattr(transport, "serializer", seal_and_record)
    return frames


def test_a_replay_to_an_actor_delivers_nothing(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame recorded on its way to an actor is counted when it comes again, there and elsewhere."""
    address = floor.create(Counting)
    transport = floor.system._systemBase.transport
    frames = recorded(transport, monkeypatch)
    floor.system.tell(address, Told("once"))
    port = address.addressDetails.sockname[1]
    assert say(port, frames[0]) != b""
    assert say(floor.plane.admin_port, frames[0]) != b""
    assert floor.rejections() == {Rejection.REPLAY: 1, Rejection.MISDIRECTED: 1}
    assert floor.ask(address, "told") == ["once"]


def test_a_frame_of_an_earlier_boot_is_refused(
    boot: Callable[..., Floor], plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with a fresh key, as a node boots, nor with the same one does a recorded frame count again."""
    first = boot()
    transport = first.system._systemBase.transport
    frames = recorded(transport, monkeypatch)
    with pytest.raises(ActorSystemFailure):
        first.create(Unlisted)
    first.system._systemBase._verifyAdminRunning()
    first.stop()
    second = boot()
    assert say(plane.admin_port, frames[-1]) != b""
    assert second.rejections()[Rejection.STALE] == 1
    second.stop()
    third = boot(replace(plane, key=os.urandom(32)))
    assert say(plane.admin_port, frames[-1]) == b""
    assert third.rejections()[Rejection.MAC] == 1


def test_an_actor_that_is_not_listed_is_not_created(floor: Floor) -> None:
    """A create request for another class fails at once, is counted, and imports nothing in the admin."""
    began = time.monotonic()
    for name in (Unlisted, "antigravity.Anything", class_path(Counting) + "s"):
        with pytest.raises(ActorSystemFailure):
            floor.create(name)  # type: ignore[arg-type]
    assert time.monotonic() - began < 5.0
    assert floor.rejections() == {Rejection.REFUSED_CLASS: 3}
    floor.create(Counting)


def test_a_slow_stranger_does_not_hold_the_admin(floor: Floor) -> None:
    """Half a frame is dropped within the bound, and the system answers meanwhile."""
    with socket.create_connection(("127.0.0.1", floor.plane.admin_port), timeout=5) as stranger:
        stranger.sendall(b"SUP1\x00\x00")
        began = time.monotonic()
        address = floor.create(Counting)
        assert floor.ask(address, "meanwhile") == "meanwhile"
        assert stranger.recv(1) == b""
        assert time.monotonic() - began < floor.plane.frame_timeout + 1.0
    assert floor.rejections() == {Rejection.SLOW: 1}


def test_a_crowd_at_every_door_does_not_stop_the_system(floor: Floor) -> None:
    """Many silent connections to each port leave the system at work."""
    address = floor.create(Counting)
    crowd = [
        socket.create_connection(("127.0.0.1", port), timeout=5) for port in listening_ports(floor.processes()) for _ in range(40)
    ]
    assert floor.ask(address, "through") == "through"
    assert floor.ask(floor.create(Counting), "through") == "through"
    for stranger in crowd:
        stranger.close()


# --- where it listens


def test_nothing_listens_on_anything_but_loopback(floor: Floor) -> None:
    """Every listening socket of every process is bound to 127.0.0.1, one for each process."""
    parent = floor.create(Parent)
    floor.ask(parent, "create")
    processes = floor.processes()
    ports = listening_ports(processes)
    assert len(processes) == 4
    assert {process for _, process in ports.values()} == set(processes)
    assert {ip for ip, _ in ports.values()} == {"127.0.0.1"}
    mine = listening_ports([psutil.Process()])
    transport = floor.system._systemBase.transport
    assert mine[transport.socket.getsockname()[1]][0] == "127.0.0.1"


def test_no_process_ever_binds_wider(boot: Callable[..., Floor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment: each `bind` of each process of a system's life names the one address."""
    record = os.open(tmp_path / "binds", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            os.write(record, f"{address[0]}\n".encode())
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Watched)
    floor = boot()
    floor.ask(floor.create(Parent), "create")
    floor.stop()
    os.close(record)
    binds = (tmp_path / "binds").read_text().split()
    assert len(binds) >= 5
    assert set(binds) == {"127.0.0.1"}


def test_no_log_of_thespians_own_is_written(boot: Callable[..., Floor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thespian's log in the temporary directory is off in every process."""
    monkeypatch.setenv("THESPLOG_FILE", str(tmp_path / "thespian.log"))
    monkeypatch.setattr(utilis, "_thesplog_file", None)
    floor = boot()
    say(floor.plane.admin_port, b"nonsense")
    with pytest.raises(ActorSystemFailure):
        floor.create(Unlisted)
    floor.stop()
    assert not (tmp_path / "thespian.log").exists()


# --- start and signals


@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_admin_is_followed_by_another_on_the_same_port(
    boot: Callable[..., Floor], plane: ControlPlane, killed: signal.Signals
) -> None:
    """Its port is free the moment it is dead, although logger and actors may live a little longer."""
    first = boot()
    first.create(Counting)
    others = [process for process in first.processes() if process != first.admin]
    first.admin.send_signal(killed)
    assert os.waitpid(first.admin.pid, 0)[1] == killed
    assert all(is_alive(process) for process in others)
    began = time.monotonic()
    second = boot(replace(plane, key=os.urandom(32)))
    assert time.monotonic() - began < 1.0
    assert second.ask(second.create(Counting), "back") == "back"


def test_a_port_in_use_is_an_error_not_an_attachment(boot: Callable[..., Floor], plane: ControlPlane) -> None:
    """A start on a port that another process holds says so and leaves nothing behind."""
    taken = socket.create_server(("127.0.0.1", plane.admin_port))
    with taken, pytest.raises(AdminStartError, match=str(plane.admin_port)):
        boot(replace(plane, start_timeout=0.2))
    assert psutil.Process().children() == []


def test_an_admin_that_dies_at_birth_is_reported_at_once(
    boot: Callable[..., Floor], plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start does not wait for its deadline when the admin has ended, and leaves nothing behind."""
    monkeypatch.setattr(system_base, "_Admin", lambda *_: os._exit(7))
    began = time.monotonic()
    with pytest.raises(AdminStartError, match="exit status 7"):
        boot()
    assert time.monotonic() - began < plane.start_timeout / 2
    assert psutil.Process().children() == []


def test_an_admin_that_stays_silent_is_ended(
    boot: Callable[..., Floor], plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An admin that has not come up by the deadline is killed and reaped."""
    monkeypatch.setattr(system_base, "_Admin", lambda *_: signal.pause())
    with pytest.raises(AdminStartError, match=r"within 0\.2 s"):
        boot(replace(plane, start_timeout=0.2))
    assert psutil.Process().children() == []


def test_a_killed_logger_is_replaced(floor: Floor) -> None:
    """The admin outlives its logger, starts another, and goes on creating actors; its starter hears nothing of it."""
    first = floor.logger
    first.kill()
    wait_until(lambda: floor.admin.children() not in ([], [first]))
    floor.processes()
    assert floor.ask(floor.create(Counting), "as before") == "as before"
    assert is_alive(floor.admin)


def signal_masks(pid: int) -> dict[str, int]:
    """Which signals a process ignores, catches and blocks, as bit sets."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line[:6]: int(line[7:], 16) for line in lines if line.startswith(("SigIgn", "SigCgt", "SigBlk"))}


def test_fatal_signals_are_fatal_and_the_terminals_are_not(floor: Floor) -> None:
    """In admin and logger the fatal signals have their default, and Ctrl-C and its like are ignored."""
    for process in (floor.admin, floor.logger):
        masks = signal_masks(process.pid)
        for number in (*FATAL, signal.SIGTERM):
            assert not (masks["SigIgn"] | masks["SigCgt"]) >> number - 1 & 1, number
        for number in TERMINAL:
            assert masks["SigIgn"] >> number - 1 & 1, number
        assert masks["SigBlk"] == 0
    for process in (floor.admin, floor.logger):
        for number in TERMINAL:
            process.send_signal(number)
    assert floor.ask(floor.create(Counting), "unmoved") == "unmoved"


def test_the_callers_signal_handling_stays_its_own(boot: Callable[..., Floor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers, a wakeup descriptor and blocked signals of the caller do not live on in the admin."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    try:
        floor = boot()
        assert signal_masks(floor.admin.pid)["SigBlk"] == 0
        floor.admin.terminate()
        assert os.waitpid(floor.admin.pid, 0)[1] == signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGCHLD])
        signal.signal(signal.SIGTERM, before)


def test_a_free_port_is_free_and_never_ephemeral() -> None:
    """The port can be bound, and the kernel gives it to no outgoing connection."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(20):
        port = free_port()
        assert 1024 < port < ephemeral
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_the_starters_own_port_is_guarded_too(floor: Floor) -> None:
    """The process that started the system refuses strangers on its own port as the others do."""
    transport = floor.system._systemBase.transport
    assert type(transport) is SecuredTransport
    with socket.create_connection(transport.socket.getsockname(), timeout=5) as stranger:
        stranger.sendall(pickle.dumps(PendingActor("os.system", None, 1, None, None)))
        assert floor.system.listen(0.2) is None
        assert stranger.recv(1) == b""
    assert floor.rejections() == {Rejection.MAGIC: 1}
    install(floor.plane)
