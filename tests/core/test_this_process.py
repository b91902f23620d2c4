"""What becomes of an object in a forked child; and the names of this host and its boot."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from barrier_core.this_process import Owner, boot_id, host_name, namespace_id

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PRELUDE = """
import gc, os, threading, weakref
from barrier_core.this_process import Owner, after_fork

class Held:
    def __init__(self, name="held"):
        self.name = name
        self.lock = threading.Lock()
        after_fork(self.start_afresh)

    def start_afresh(self):
        self.lock = threading.Lock()
        print(self.name, "of", "the child" if os.getpid() != parent else "the parent", flush=True)

def in_a_child(function):
    child = os.fork()
    if not child:
        function()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

parent = os.getpid()
"""


def run(script: str, prelude: str = PRELUDE) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, as a pytest that forks brings its threads with it."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", prelude + script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@forks
def test_a_method_is_called_in_the_child_alone_and_can_free_a_lock() -> None:
    script = """
held = Held()
locked, done = threading.Event(), threading.Event()

def hold():
    with held.lock:
        locked.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
locked.wait()
in_a_child(lambda: print("free:", held.lock.acquire(blocking=False), flush=True))
print("free in the parent:", held.lock.acquire(blocking=False))
done.set()
thread.join()
"""

    lines = run(script).stdout.splitlines()

    assert lines == ["held of the child", "free: True", "free in the parent: False"]


@forks
def test_a_childs_child_is_called_too_and_in_the_order_of_the_calls() -> None:
    script = """
first, second = Held("first"), Held("second")
in_a_child(lambda: in_a_child(lambda: None))
"""

    assert run(script).stdout.splitlines() == ["first of the child", "second of the child"] * 2


@forks
def test_a_function_is_kept_and_an_object_is_not() -> None:
    script = """
after_fork(lambda: print("a function", flush=True))
dead = Held("dead")
reference = weakref.ref(dead)
del dead
gc.collect()
print("gone:", reference() is None, flush=True)
in_a_child(lambda: None)
"""

    assert run(script).stdout.splitlines() == ["gone: True", "a function"]


@forks
def test_one_that_raises_is_logged_and_the_next_is_called() -> None:
    script = """
def fail():
    raise OSError("no more descriptors")

after_fork(fail)
held = Held()
in_a_child(lambda: None)
"""

    result = run(script)

    assert result.stdout.splitlines() == ["held of the child"]
    assert "failed in a forked child" in result.stderr
    assert "no more descriptors" in result.stderr


@forks
def test_a_forked_child_does_not_own_what_its_parent_made() -> None:
    script = """
owner = Owner()
in_a_child(lambda: print(owner.is_this_process(), Owner().is_this_process(), flush=True))
print(owner.is_this_process())
"""

    assert run(script).stdout.splitlines() == ["False True", "True"]


def test_this_process_owns_what_it_made() -> None:
    assert Owner().is_this_process()


@forks
def test_where_python_has_no_such_hook_nothing_is_called_and_nothing_fails() -> None:
    script = (
        """
import logging, os, random, threading  # these take it for granted where there is a fork
del os.register_at_fork
"""
        + PRELUDE
        + """
held = Held()
in_a_child(lambda: print("the child", flush=True))
"""
    )

    assert run(script, prelude="").stdout.splitlines() == ["the child"]


def test_processes_of_one_host_agree_on_its_names() -> None:
    names = "host_name(), boot_id(), namespace_id('pid'), namespace_id('time')"
    script = f"from barrier_core.this_process import *; print(({names}))"

    other = run(script).stdout.strip()

    here = (host_name(), boot_id(), namespace_id("pid"), namespace_id("time"))
    assert other == str(here)


@pytest.mark.skipif(sys.platform != "linux", reason="the boot has a name on Linux only")
def test_on_linux_the_boot_and_the_pids_have_a_name() -> None:
    assert boot_id()
    assert namespace_id("pid")
