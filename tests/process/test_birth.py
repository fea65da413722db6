"""The law at a fork, without a node: each claim in a clean interpreter that forks."""

from __future__ import annotations

import os
import signal

import pytest

from supervisors.process.procfs import thread_count
from tests.anatomy import is_gone, run_script
from tests.conftest import wait_for

NATIVE_THREAD = """
import ctypes
libc = ctypes.CDLL(None)
libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
"""


def test_a_process_with_a_second_thread_may_not_fork() -> None:
    """`assert_single_thread` refuses, and names the thread; with one thread it says nothing."""
    lines = run_script("""
        import threading
        from supervisors.errors import ForkRefused
        from supervisors.process.birth import assert_single_thread
        assert_single_thread()
        threading.Thread(target=threading.Event().wait, name="the culprit", daemon=True).start()
        try:
            assert_single_thread()
        except ForkRefused as error:
            print(error)
    """)
    assert len(lines) == 1
    assert "(MainThread, the culprit)" in lines[0]


def test_a_child_of_a_process_with_a_second_thread_ends() -> None:
    """Whoever forks without asking first gets no child that could hang: it ends in its first moment, and says why."""
    lines = run_script("""
        import os, threading, warnings
        from supervisors.process.birth import arm
        arm()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        warnings.simplefilter("ignore")  # newer Pythons warn of it
        os.dup2(1, 2)
        if os.fork() == 0:
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    assert lines == ["forked by a process with more than one thread, so this child could hang for ever; it ends", "1"]


def test_a_native_thread_counts_too() -> None:
    """A thread that Python knows nothing of refuses the fork as well, under the name that the kernel has for it."""
    lines = run_script(f"""
        {NATIVE_THREAD.strip().replace(chr(10), chr(10) + " " * 8)}
        from supervisors.errors import ForkRefused
        from supervisors.process.birth import assert_single_thread, end_native_pools
        end_native_pools()  # this one does not end at a fork
        try:
            assert_single_thread()
        except ForkRefused as error:
            print(error)
    """)
    assert "native thread" in lines[0]


def test_a_pool_that_ends_at_forks_is_ended() -> None:
    """The native threads of numpy, which nobody started, do not keep a process from forking."""
    before, after = run_script("""
        import numpy
        from supervisors.process.birth import end_native_pools
        from supervisors.process.procfs import thread_count
        print(thread_count())
        end_native_pools()
        print(thread_count())
    """)
    if before == "1":
        pytest.skip("numpy starts no threads here")
    assert after == "1"


def test_a_child_and_its_child_die_with_their_parent() -> None:
    """SIGKILL of an armed process takes what it forked with it, and what that forked."""
    lines = run_script("""
        import os, signal, time
        from supervisors.process.birth import arm, become_subreaper
        become_subreaper()
        ours, theirs = os.pipe()
        if (parent := os.fork()) == 0:
            arm()
            if (child := os.fork()) == 0:
                grandchild = os.fork()
                if grandchild:
                    os.write(theirs, f"{os.getpid()} {grandchild}".encode())
                signal.pause()
            signal.pause()
        pids = [int(each) for each in os.read(ours, 100).split()]
        os.kill(parent, signal.SIGKILL)
        ended = {os.waitpid(-1, 0)[0] for _ in range(3)}  # as their subreaper; hangs when one of them lives
        print(ended == {parent, *pids})
    """)
    assert lines == ["True"]


def test_a_child_whose_parent_died_before_it_could_arm_itself_ends() -> None:
    """PR_SET_PDEATHSIG comes too late when the parent dies between fork and prctl: the child sees that and ends by itself."""
    lines = run_script("""
        import os, signal
        from supervisors.process.birth import arm, become_subreaper
        become_subreaper()
        ours, theirs = os.pipe()
        if (parent := os.fork()) == 0:
            # Hooks run in the order in which they were registered: this one before the one that arms.
            def slow():
                while os.getppid() == parent_pid:
                    pass
            parent_pid = os.getpid()
            os.register_at_fork(after_in_child=slow)
            arm()
            if os.fork() == 0:
                os.write(theirs, b"alive")
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(theirs)
        print(os.read(ours, 100))  # the end of the pipe: the child has ended without a word
    """)
    assert lines == ["b''"]


def test_a_thread_of_a_server_that_forks_and_ends_does_not_kill_its_child() -> None:
    """PR_SET_PDEATHSIG follows the forking thread; a disarmed process's child outlives the thread that forked it."""
    lines = run_script("""
        import os, threading
        from supervisors.process.birth import arm, disarm
        arm()
        disarm()
        ours, theirs = os.pipe()
        goes_on, done = os.pipe()
        pids = []
        def fork():
            pids.append(os.fork())
            if pids[0] == 0:
                os.read(goes_on, 1)  # until the thread has ended
                os.write(theirs, b"alive")
                os._exit(0)
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        os.close(theirs)
        os.write(done, b"x")
        print(os.read(ours, 100))
        os.waitpid(pids[0], 0)
    """)
    assert lines == ["b'alive'"]


def test_a_child_collects_its_garbage_but_never_its_parents() -> None:
    """After a fork the collector is on, and a descriptor that the parent's garbage holds by its number stays open."""
    lines = run_script("""
        import gc, os, socket
        from supervisors.process.birth import arm
        gc.disable()
        arm()
        class Ring: pass
        ring = Ring()
        ring.self, ring.socket = ring, socket.socket()
        number = ring.socket.fileno()
        del ring
        if os.fork() == 0:
            os.close(number)
            assert os.open("/dev/null", os.O_RDONLY) == number  # somebody else's by now
            gc.collect()
            os.fstat(number)
            os._exit(0 if gc.isenabled() else 2)
        print(os.waitstatus_to_exitcode(os.wait()[1]), gc.isenabled())
    """)
    assert lines == ["0 False"]


def test_inherited_descriptors_are_closed_raw() -> None:
    """A child closes what it was told to close and nothing else, and its parent's epoll goes on hearing of all of them."""
    lines = run_script("""
        import os, select
        from supervisors.process.birth import arm, closing_in_child
        arm()
        ours, theirs = os.pipe()
        kept = os.open("/dev/null", os.O_RDONLY)
        epoll = select.epoll()
        epoll.register(ours, select.EPOLLIN)
        with closing_in_child({ours, epoll.fileno(), 999}):
            child = os.fork()
        if child == 0:
            os.fstat(kept)
            for number in (ours, epoll.fileno()):
                try:
                    os.fstat(number)
                except OSError:
                    continue
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        os.write(theirs, b"x")
        print(epoll.poll(0) == [(ours, select.EPOLLIN)])
        if os.fork() == 0:
            os.fstat(ours)  # outside the block nothing is closed
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    assert lines == ["0", "True", "0"]


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT"])
def test_fatal_signals_are_fatal_again(number: str) -> None:
    """A Python handler on a fatal signal is replaced by death."""
    lines = run_script(f"""
        import os, signal
        from supervisors.process.birth import restore_fatal_signals
        if os.fork() == 0:
            signal.signal(signal.{number}, lambda *_: None)
            restore_fatal_signals()
            os.kill(os.getpid(), signal.{number})
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    assert lines == [str(-getattr(signal, number))]


def test_this_process_counts_its_threads() -> None:
    """`thread_count` is the kernel's number."""
    assert thread_count() == len(os.listdir("/proc/self/task"))


def test_the_end_of_a_script_ends_what_it_armed() -> None:
    """An armed process that simply exits takes its children with it as well."""
    [pid] = run_script("""
        import os, signal
        from supervisors.process.birth import arm
        arm()
        child = os.fork()
        if child == 0:
            os.close(1)
            os.close(2)
            signal.pause()
        print(child)
    """)
    assert wait_for(lambda: is_gone(int(pid)))
