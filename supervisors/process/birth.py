"""What holds at a fork and right after it: the parts of the law of processes that every process of the tree obeys.

A fork from a process whose second thread holds a lock leaves a child that hangs for ever: so a process that forks has
one thread, and is asked before each fork (`assert_single_thread`). A child dies with its parent (`arm`), dies of a
fatal signal instead of spinning in Thespian's Python handler (`restore_fatal_signals`), and closes what it inherited
raw, because a polite close of an inherited loop deafens the parent (`closing_in_child`).
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from supervisors.errors import ForkRefused, NodeError
from supervisors.process.procfs import thread_count, thread_names

__all__ = [
    "FATAL_SIGNALS",
    "arm",
    "assert_single_thread",
    "become_subreaper",
    "closing_in_child",
    "disarm",
    "end_native_pools",
    "open_descriptors",
    "restore_fatal_signals",
]

FATAL_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_REHEARSAL_TIMEOUT = 1.0
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        problem = f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}; this needs Linux"
        raise NodeError(problem)


class _Fork:
    """The state of the fork hooks in this process: hooks cannot be unregistered, so they ask it."""

    registered = False
    armed = False
    parent = 0
    threads = 1
    closing: frozenset[int] = frozenset()


def arm() -> None:
    """From now on a child forked by this process, or by a forked child of it, dies when its parent dies.

    A child of a process with more than one thread ends at once. Else its garbage collector is on, whatever the parent's
    was, and leaves alone what the parent had made: among that may be garbage that holds a descriptor by its number, which
    in the child may by then be somebody else's.

    Called once by the node, before its first fork, in its only thread. PR_SET_PDEATHSIG follows the *thread* that forked;
    processes that fork have one thread, so it follows the process. A server calls `disarm`: what its threads fork is its
    own business, and is killed through its process group.
    """
    if not _Fork.registered:
        os.register_at_fork(before=_before_fork, after_in_child=_after_in_child)
        _Fork.registered = True
    _Fork.armed = True


def disarm() -> None:
    """Children that this process forks from now on no longer die with the forking thread. Called in a server's first lines."""
    _Fork.armed = False


def _before_fork() -> None:
    _Fork.parent = os.getpid()
    if _Fork.armed:
        _Fork.threads = thread_count()


def _after_in_child() -> None:
    if _Fork.armed:
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != _Fork.parent:  # the parent died between the fork and the line above
            os._exit(0)
        gc.freeze()
        gc.enable()
        if _Fork.threads != 1:
            # Whoever forked did not ask first: Thespian's admin, which was given a thread by some module's fork handler.
            os.write(2, b"forked by a process with more than one thread, so this child could hang for ever; it ends\n")
            os._exit(1)
    # Raw, by number, and before anything is opened here: the objects that stand for them are the parent's business.
    for number in _Fork.closing:
        with suppress(OSError):
            os.close(number)
    _Fork.closing = frozenset()


def become_subreaper() -> None:
    """Orphans of the tree become children of this process, which reaps them. Called once by the node."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def restore_fatal_signals() -> None:
    """Let fatal signals be fatal again. Called in the first lines of every actor, in its first thread.

    Thespian installs a Python handler for every signal. For SIGSEGV the handler's flag is set, the faulting instruction
    runs again, and the process spins for ever at 100 % of a core.
    """
    for number in FATAL_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def assert_single_thread() -> None:
    """Raise `ForkRefused` unless this process has exactly one thread. Called before each fork, by whoever forks."""
    if thread_count() != 1:
        names = ", ".join(thread_names())
        problem = (
            f"process {os.getpid()} has more than one thread ({names}), so it may not fork: a child could hang for ever on a "
            "lock that a thread holds; find what started the thread (often an import in `preload`) and start it in a server"
        )
        raise ForkRefused(problem)


def end_native_pools() -> None:
    """Have libraries end those threads of theirs that end at any fork anyway. Called once by the node, before its first fork.

    OpenBLAS, which comes with numpy, starts threads when it is loaded, ends them in a fork handler of its own and starts
    them again when it needs them. So one fork is made here, of a child that does nothing, and only when all threads but
    this one are native: such a child takes no lock of Python's.
    """
    if thread_count() == 1 or threading.active_count() != 1:
        return
    armed, _Fork.armed = _Fork.armed, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of the very thing that is cured here
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    _Fork.armed = armed
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(_REHEARSAL_TIMEOUT * 1000):
        os.kill(pid, signal.SIGKILL)  # our child, not reaped
    os.close(descriptor)
    os.waitpid(pid, 0)


def open_descriptors() -> frozenset[int]:
    """The numbers of all descriptors open in this process at this moment."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208
        number = int(entry)
        with suppress(OSError):
            os.fstat(number)  # the descriptor of the listing itself is closed by now
            found.add(number)
    return frozenset(found)


@contextmanager
def closing_in_child(numbers: Iterable[int]) -> Iterator[None]:
    """A child forked inside this block closes these descriptors at once. Called in a process with one thread."""
    _Fork.closing = frozenset(numbers)
    try:
        yield
    finally:
        _Fork.closing = frozenset()
