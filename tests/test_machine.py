"""The life of a supervisor, decided without a process and without a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors.exits import Crash, Exited, ExitReason, Killed, Normal, Shutdown, StartTimeout
from supervisors.machine import AskStop, Effect, End, Fork, Kill, Log, Machine, Phase, Ready, State
from supervisors.spec import BRUTAL_KILL, INFINITY, ChildSpec, Restart, Supervisor

pytestmark = pytest.mark.timeout(60)

BOOM = Crash("RuntimeError", "boom")


def spec(id_: str, restart: Restart = Restart.PERMANENT, **options: object) -> ChildSpec:
    """A child of that id."""
    return ChildSpec(id=id_, server="tests.servers:Counter", restart=restart, **options)  # type: ignore[arg-type]


def acts(effects: list[Effect]) -> list[Effect]:
    """The effects without the log lines."""
    return [each for each in effects if not isinstance(each, Log)]


def logged(effects: list[Effect]) -> list[str]:
    """The names of the events in the log lines."""
    return [each.event for each in effects if isinstance(each, Log)]


@dataclass
class World:
    """Carries effects out the way an actor does, with processes that are entries of a dict."""

    machine: Machine
    now: float = 0.0
    alive: dict[str, int] = field(default_factory=dict)
    forked: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    end: ExitReason | None = None
    told_ready: bool = False

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert self.end is None, "something happens after the end"
            match effect:
                case Fork(id_):
                    assert id_ not in self.alive, f"{id_} is forked while it lives"
                    self.alive[id_] = self.machine.children[id_].incarnation
                    self.forked.append(id_)
                    self.machine.forked(id_, self.now)
                case Kill(id_) if id_ in self.alive:
                    self.die(id_, Killed(9))
                case Ready():
                    self.told_ready = True
                case End(reason):
                    assert not self.alive, "ended with living children"
                    self.end = reason

    def is_over(self) -> bool:
        """Whether the supervisor has ended."""
        return self.end is not None

    def ready(self, id_: str) -> None:
        self.do(self.machine.ready(id_, self.alive[id_], self.now))

    def die(self, id_: str, reason: ExitReason) -> None:
        incarnation = self.alive.pop(id_)
        self.ended.append(id_)
        self.do(self.machine.exited(id_, incarnation, reason, self.now))


def up(*specs: ChildSpec, **options: object) -> World:
    """A supervisor that runs, all of its children ready."""
    world = World(Machine(Supervisor("s", specs, **options)))  # type: ignore[arg-type]
    world.do(world.machine.begin())
    for each in specs:
        world.ready(each.id)
    assert world.told_ready
    return world


def test_children_start_in_order_each_when_the_one_before_is_ready() -> None:
    """The second is forked when the first is ready, and the supervisor is ready when the last is."""
    machine = Machine(Supervisor("s", (spec("a"), spec("b"))))
    assert acts(machine.begin()) == [Fork("a")]
    assert acts(machine.ready("a", 1, 0.0)) == [Fork("b")]
    assert str(machine.phase) == "starting"
    assert acts(machine.ready("b", 2, 0.0)) == [Ready()]
    assert str(machine.phase) == "running"


def test_a_supervisor_without_children_is_ready_at_once() -> None:
    """And it stops at once, too."""
    machine = Machine(Supervisor("s"))
    assert machine.begin() == [Ready()]
    assert machine.stop(Shutdown("x"), 0.0) == [End(Shutdown("x"))]


def test_a_child_that_does_not_start_ends_the_supervisor_in_reverse_order() -> None:
    """Those that have started are stopped, the last first, and the reason names the one that failed."""
    world = World(Machine(Supervisor("s", (spec("a"), spec("b"), spec("c")))))
    world.do(world.machine.begin())
    world.ready("a")
    world.ready("b")
    world.die("c", BOOM)
    assert world.machine.phase is Phase.STOPPING
    world.die("b", Shutdown())
    assert not world.is_over()
    world.die("a", Shutdown())
    assert isinstance(world.end, Shutdown)
    assert "'c' did not start" in world.end.detail
    assert not world.told_ready


@pytest.mark.parametrize(
    "restart, reason, again",
    [
        (Restart.PERMANENT, Normal(), True),
        (Restart.PERMANENT, Shutdown(), True),
        (Restart.PERMANENT, BOOM, True),
        (Restart.TRANSIENT, Normal(), False),
        (Restart.TRANSIENT, Shutdown(), False),
        (Restart.TRANSIENT, BOOM, True),
        (Restart.TRANSIENT, Killed(9), True),
        (Restart.TRANSIENT, Exited(3), True),
        (Restart.TEMPORARY, BOOM, False),
        (Restart.TEMPORARY, Normal(), False),
    ],
)
def test_restart_kinds(restart: Restart, reason: ExitReason, again: bool) -> None:
    """`permanent` always, `transient` unless it ended in order, `temporary` never."""
    world = up(spec("a", restart), spec("b"))
    world.die("a", reason)
    assert ("a" in world.alive) is again
    assert "b" in world.alive
    assert world.forked.count("b") == 1


def test_a_temporary_child_is_forgotten_and_a_transient_one_is_not() -> None:
    """OTP keeps the spec of a transient child that ended, and drops that of a temporary one."""
    world = up(spec("t", Restart.TEMPORARY), spec("u", Restart.TRANSIENT))
    world.die("t", BOOM)
    world.die("u", Normal())
    assert list(world.machine.children) == ["u"]
    assert world.machine.children["u"].state is State.DOWN


def test_intensity_is_exact_at_the_edges_of_its_window() -> None:
    """`max_restarts` within `max_seconds`, both edges included, are borne; one more is not."""
    world = up(spec("a"), max_restarts=2, max_seconds=5.0)
    for now in (0.0, 2.5, 5.0 + 1e-9):  # the first has just left the window
        world.now = now
        world.die("a", BOOM)
        world.ready("a")
    assert not world.is_over()
    world.now = 7.5  # 2.5, 5.0 and 7.5: the first of them is exactly max_seconds old and still counts
    world.die("a", BOOM)
    assert isinstance(world.end, Shutdown)
    assert "restart intensity" in world.end.detail
    assert world.forked.count("a") == 4


def test_no_restart_is_borne_with_an_intensity_of_zero() -> None:
    """`max_restarts=0` means that the first failure is the supervisor's."""
    world = up(spec("a"), spec("b"), max_restarts=0)
    world.die("a", BOOM)
    assert world.machine.phase is Phase.STOPPING
    world.die("b", Shutdown())
    assert isinstance(world.end, Shutdown)


def test_a_restart_that_fails_is_tried_again_and_counts() -> None:
    """Each try is one restart; a transient child that says Normal before it is ready is tried again, too."""
    world = up(spec("a", Restart.TRANSIENT), max_restarts=3)
    world.die("a", BOOM)
    world.die("a", Normal())
    world.die("a", BOOM)
    assert not world.is_over()
    world.die("a", BOOM)
    assert isinstance(world.end, Shutdown)


def test_a_start_has_a_deadline() -> None:
    """A child that is not ready in time is killed, and the reason says so."""
    world = up(spec("a", start_timeout=2.0), max_restarts=1)
    world.die("a", BOOM)
    assert world.machine.next_deadline() == 2.0
    world.now = 1.99
    world.do(world.machine.tick(world.now))
    assert world.forked == ["a", "a"]
    world.now = 2.0
    world.do(world.machine.tick(world.now))
    assert world.machine.children["a"].last_reason == StartTimeout(2.0)
    assert world.end is not None


def test_a_stop_asks_in_reverse_order_and_kills_at_the_deadline() -> None:
    """Each child gets its own seconds, one after the other; `brutal_kill` none, `infinity` all."""
    world = up(spec("a", shutdown=INFINITY), spec("b", shutdown=3.0), spec("c", shutdown=BRUTAL_KILL))
    machine = world.machine
    assert acts(machine.stop(Shutdown("x"), 10.0)) == [Kill("c")]
    assert acts(machine.exited("c", world.alive.pop("c"), Killed(9), 10.0)) == [AskStop("b")]
    assert machine.next_deadline() == 13.0
    assert acts(machine.tick(13.0)) == [Kill("b")]
    effects = machine.exited("b", world.alive.pop("b"), Killed(9), 13.0)
    assert acts(effects) == [AskStop("a")]
    assert machine.children["b"].last_reason == Killed(9, "did not stop within 3.0 s")
    assert machine.next_deadline() is None
    assert acts(machine.exited("a", world.alive.pop("a"), Shutdown(), 99.0)) == [End(Shutdown("x"))]


def test_a_child_that_ends_by_itself_while_it_is_stopped_keeps_its_own_reason() -> None:
    """Only an end by SIGKILL is put down to the supervisor's verdict."""
    world = up(spec("a", shutdown=1.0))
    world.machine.stop(Shutdown("x"), 0.0)
    world.machine.tick(1.0)
    world.machine.exited("a", world.alive.pop("a"), Shutdown("in time"), 1.0)
    assert world.machine.children["a"].last_reason == Shutdown("in time")


def test_a_stalled_child_is_killed_and_replaced() -> None:
    """SIGSTOP: the supervisor's own kill carries what it saw as the reason."""
    world = up(spec("a"))
    world.do(world.machine.stalled("a", "stopped by a signal"))
    assert world.alive == {"a": 2}
    assert world.machine.children["a"].last_reason == Killed(9, "stopped by a signal")


def test_words_of_the_dead_change_nothing() -> None:
    """Ready or exited of an earlier incarnation, or of an unknown child, are ignored."""
    world = up(spec("a"))
    world.die("a", BOOM)
    machine = world.machine
    assert machine.ready("a", 1, 0.0) == []
    assert machine.exited("a", 1, BOOM, 0.0) == []
    assert machine.ready("nobody", 1, 0.0) == []
    assert machine.exited("nobody", 1, BOOM, 0.0) == []
    assert machine.children["a"].state is State.STARTING


def test_every_start_exit_and_restart_is_logged() -> None:
    """One event each, with the child's id and the reason."""
    world = up(spec("a"), max_restarts=1)
    effects = world.machine.exited("a", world.alive.pop("a"), BOOM, 0.0)
    assert logged(effects) == ["child_exited", "child_restarting"]
    assert logged(world.machine.ready("a", 2, 0.0)) == ["child_started"]
    effects = world.machine.exited("a", 2, BOOM, 0.0)
    assert logged(effects) == ["child_exited", "intensity_reached"]


REASONS: list[ExitReason] = [Normal(), Shutdown(), BOOM, Killed(9), Exited(2)]


@given(
    kinds=st.lists(st.sampled_from(list(Restart)), min_size=1, max_size=5),
    shutdowns=st.lists(st.sampled_from([BRUTAL_KILL, INFINITY, 1.0]), min_size=5, max_size=5),
    max_restarts=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_any_sequence_of_events_keeps_the_invariants(
    kinds: list[Restart], shutdowns: list[float | str], max_restarts: int, seed: int
) -> None:
    """Never two processes of a child, nothing after the end, no living child at the end, and the end comes when asked."""
    chance = random.Random(seed)
    specs = [
        spec(f"c{index}", kind, shutdown=shutdown, start_timeout=2.0)
        for index, (kind, shutdown) in enumerate(zip(kinds, shutdowns, strict=False))
    ]
    world = World(Machine(Supervisor("s", tuple(specs), max_restarts=max_restarts)))
    world.do(world.machine.begin())
    for _ in range(60):
        if world.end is not None:
            break
        world.now += chance.choice((0.0, 0.1, 1.0, 3.0))
        living = list(world.alive)
        match chance.randrange(6):
            case 0 | 1 if living:
                world.die(chance.choice(living), chance.choice(REASONS))
            case 2 | 3 if living:
                world.ready(chance.choice(living))
            case 4 if living:
                chosen = chance.choice(living)
                if world.machine.children[chosen].state is State.RUNNING:
                    world.do(world.machine.stalled(chosen, "stopped"))
            case _:
                world.do(world.machine.tick(world.now))
        assert len(world.machine.restart_times) <= max_restarts + 1
    world.do(world.machine.stop(Shutdown("enough"), world.now))
    while world.end is None:
        world.die(list(world.alive)[-1], Shutdown())
    assert world.machine.phase is Phase.ENDED
