"""What a forked child may do with its parent's barriers, and with its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PRELUDE = """
import os, signal, sys, threading, time
from barrier_core import create_barrier
from barrier_core.errors import BarrierUsageError

def make(rank, prefix="test"):
    return create_barrier("local", global_rank=rank, global_world_size=2, barrier_prefix=prefix)

def pass_through(barriers):
    threads = [threading.Thread(target=barrier.execute_barrier) for barrier in barriers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print([barrier.round for barrier in barriers], flush=True)

def refused(call, *args):
    try:
        call(*args)
    except BarrierUsageError as error:
        return f"(pid {parent})" in str(error)
    return False

def wait_for(child):
    assert os.waitpid(child, 0)[1] == 0

parent = os.getpid()
barriers = [make(0), make(1)]
"""


def run(script: str) -> list[str]:
    """Run a script in a process of its own; return the lines it prints."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + script]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()


def test_a_forked_child_is_refused_and_changes_nothing() -> None:
    script = """
barrier = barriers[0]
child = os.fork()
if not child:
    print(refused(barrier.execute_barrier), refused(barrier.abort, "x"))
    print(refused(barrier.report_progress, "x"), refused(barrier.gather, "x"))
    print(refused(barrier.phase("save").__enter__))
    with barrier:
        pass
    barrier.close()
    sys.exit(0)
wait_for(child)
pass_through(barriers)
"""
    assert run(script) == ["True True", "True True", "True", "[1, 1]"]


def test_a_copy_of_a_barrier_is_refused_too() -> None:
    script = """
copied = object.__new__(type(barriers[0]))  # by force: copy.copy refuses
copied.__dict__.update(barriers[0].__dict__)
child = os.fork()
if not child:
    print(refused(copied.execute_barrier), refused(copied.abort, "x"))
    copied.close()
    sys.exit(0)
wait_for(child)
pass_through(barriers)
"""
    assert run(script) == ["True True", "[1, 1]"]


def test_a_child_leaves_a_phase_by_its_own_exception() -> None:
    script = """
thread = threading.Thread(target=lambda: barriers[1].execute_barrier(tag="save"))
thread.start()
with barriers[0].phase("save"):
    child = os.fork()
    if not child:
        sys.exit(0)
    wait_for(child)
thread.join()
print(barriers[0].round, barriers[1].round)
"""
    assert run(script) == ["1 1"]


def test_a_child_that_a_signal_handler_forks_in_a_round_is_not_in_it() -> None:
    script = """
def fork(*_):
    child = os.fork()
    if child:
        wait_for(child)
        threading.Thread(target=barriers[1].execute_barrier).start()

signal.signal(signal.SIGUSR1, fork)
threading.Timer(0.5, os.kill, (parent, signal.SIGUSR1)).start()
outcome = refused(barriers[0].execute_barrier)
print(outcome, os.getpid() == parent, flush=True)
"""
    assert run(script) == ["True False", "False True"]


def test_a_child_makes_barriers_of_its_own() -> None:
    script = """
pass_through(barriers)
child = os.fork()
if not child:
    pass_through([make(0), make(1)])
    sys.exit(0)
wait_for(child)
pass_through(barriers)
"""
    assert run(script) == ["[1, 1]", "[1, 1]", "[2, 2]"]
