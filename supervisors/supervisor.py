"""The specification of a supervisor.

The value is `Supervisor`, made from children that `child` describes.

**Start.** A supervisor starts its children in the order in which they are listed, each when the one before it is ready.
A child is ready when its `init` has returned, it listens, and it holds its name. A child that has not said so within its
`start_timeout` is killed and counts as failed. If a child does not start, those that have started are stopped in reverse
order and the supervisor ends with `Shutdown`; its own supervisor decides.

**Restart.** When a child ends by itself, `restart` says whether it is started again: `permanent`, always; `transient`, only if
it crashed or was killed; `temporary`, never, and its spec is forgotten. A child that was being restarted and does not
come up is tried again, whatever its kind, and each try counts.

**Strategy.** `one_for_one`: only the child that ended is restarted.

**Intensity.** `max_restarts` restarts within the last `max_seconds` (both ends of the window included) are borne. One more, and
the supervisor stops its children in reverse order and ends with `Shutdown`; that is a restart for its own supervisor.
Above the root, the node boots a fresh tree, five times in 30 s at the most, then it ends.

**Stop.** Children are stopped in reverse order, one after the other: asked, then, after `shutdown` seconds, killed;
`brutal_kill` kills at once, `infinity` waits. A server that is asked lets running handlers finish, answers everybody who
waits with `ActorDown`, and runs `terminate`.

**Crash.** An exception in a handler ends the server: the caller gets `ActorDown` with the reason, the supervisor the traceback
as well. A handler never runs twice for one message. What the server had spawned into its process group is killed.

**Health.** A child that a signal has stopped (SIGSTOP) is found within a second, killed and restarted. A child that
computes is not dead: deadlines judge calls, and nobody else.

**While it supervises**, it answers `which children` through its door within a tick, during a storm of restarts too: a restart
is an event among others, never a loop in place.
"""

from supervisors.spec import BRUTAL_KILL, INFINITY, ChildSpec, Restart, Shutdown, Strategy, Supervisor, child

__all__ = ["BRUTAL_KILL", "INFINITY", "ChildSpec", "Restart", "Shutdown", "Strategy", "Supervisor", "child"]
