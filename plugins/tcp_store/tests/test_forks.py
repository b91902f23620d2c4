"""Ranks with children, as a data loader has them: what a child inherits outlives nobody."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from barrier_core.errors import BarrierUsageError
from barrier_core.testing.rank_processes import RankProcesses, state, wait_until
from plugins.tcp_store.tests.looking import soon, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import Job, arrive, can_listen, join, try_to_arrive
from plugins.tcp_store.tests.test_two_hosts import HostRank, run
from tests.support.network import Network
from tests.support.ports import free_port

_STAYS_SECS = 120.0
"""How long a child stays at most, in seconds."""


def start_child(rank: int, way: str) -> int:
    """Start a child that stays; return its pid."""
    if way == "os.fork":
        child = os.fork()
        if child == 0:
            time.sleep(_STAYS_SECS)
            os._exit(0)
        return child
    # A rank of the tests is a process that multiprocessing allows no children.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    process: Any = multiprocessing.get_context(way).Process(target=time.sleep, args=(_STAYS_SECS,))  # type: ignore[attr-defined]
    process.start()
    return int(process.pid)


@contextmanager
def child_of(ranks: RankProcesses, rank: int, way: str = "os.fork") -> Iterator[int]:
    """Have a rank start a child that outlives it."""
    child = ranks.run(rank, start_child, way)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("use_libuv", [True, False], ids=["libuv", "older"])
@pytest.mark.parametrize("way", ["os.fork", "fork", "spawn", "forkserver"])
def test_a_host_that_is_killed_is_gone_although_its_child_lives(
    ranks: RankProcesses, hosted_job: Job, way: str, use_libuv: bool
) -> None:
    job = hosted_job.but(use_checkpoint_barrier_tcpstore_libuv=use_libuv)
    ranks.run_all(join, job)
    ranks.run_all(arrive, job)
    with child_of(ranks, 0, way) as child:
        calls = ranks.start_all(try_to_arrive, job, ranks=[1, 2, 3])
        wait_until_arrived(job, [1, 2, 3], 2)
        ranks.kill(0)
        with soon():
            verdicts = [call.result() for call in calls]
        assert [verdict.kind for verdict in verdicts if verdict] == ["store"] * 3
        ranks.replace(0)
        assert ranks.run(0, can_listen, job)
        again = job.but(generation="1")
        ranks.run_all(join, again)
        ranks.run_all(arrive, again)
        os.kill(child, 0)  # it lives


def arrive_and_fork(rank: int, job: Job, how: str, has_forked: Path) -> int:
    """Fork while this rank waits in a round; return the child's exit code: 0 if it was refused.

    A thread forks, and its child calls the barrier; or a signal handler, and its child comes out of
    the round that the parent is in.
    """
    barrier = state[job.prefix]
    parent = os.getpid()
    codes: list[int] = []

    def fork(*_: object) -> None:
        child = os.fork()
        if child:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            has_forked.touch()
        elif how == "a thread":
            call()

    def call() -> None:
        refused = False
        try:
            barrier.execute_barrier()
        except BarrierUsageError:
            refused = True
        finally:
            if os.getpid() != parent:
                os._exit(0 if refused else 1)

    def fork_soon() -> None:
        wait_until_arrived(job, [rank], barrier.round + 1)
        if how == "a thread":
            fork()
        else:
            os.kill(parent, signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, fork)
    thread = threading.Thread(target=fork_soon)
    thread.start()
    call()
    thread.join()
    signal.signal(signal.SIGUSR2, before)
    return codes[0]


@pytest.mark.parametrize("how", ["a thread", "a signal handler"])
def test_a_child_that_is_forked_during_a_round_is_not_in_it(
    ranks: RankProcesses, any_job: Job, how: str, tmp_path: Path
) -> None:
    ranks.run_all(join, any_job)
    ranks.run_all(arrive, any_job)
    has_forked = tmp_path / "forked"
    forking = ranks.start(1, arrive_and_fork, any_job, how, has_forked)
    wait_until(has_forked.exists, "rank 1 has forked")
    ranks.run_all(arrive, any_job, ranks=[0, 2, 3])
    assert forking.result() == 0
    ranks.run_all(arrive, any_job)


def inheritable_sockets(rank: int) -> list[int]:
    """Return the descriptors of sockets that a program started by this process would inherit."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
            if is_socket and not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(descriptor)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("use_libuv", [True, False], ids=["libuv", "older"])
def test_a_program_that_a_rank_starts_inherits_no_socket(
    ranks: RankProcesses, hosted_job: Job, use_libuv: bool
) -> None:
    before = ranks.run_all(inheritable_sockets)
    ranks.run_all(join, hosted_job.but(use_checkpoint_barrier_tcpstore_libuv=use_libuv))
    assert ranks.run_all(inheritable_sockets) == before


# On two hosts. A rank whose child is to outlive it must not be the first process of its host.

_UNDER_A_SHELL = ("sh", "-c", 'exec 3<&0; "$@" <&3 3<&- & wait; sleep 120', "sh")


class RankWithChild(HostRank):
    """A rank that can be killed without its children."""

    def kill_alone(self) -> int:
        """Kill the rank: SIGKILL. Return the pid of its child, which lives on."""
        rank = _child(_child(self._process.pid))  # the shell's
        child = _child(rank)
        os.kill(rank, signal.SIGKILL)
        return child


def _child(pid: int) -> int:
    """Return the pid of a process's first child."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.fixture
def options(network: Network) -> dict[str, Any]:
    """What all ranks are told of the barrier."""
    return {
        "master_address": network.addresses["left"],
        "tcpstore_port": free_port(),
        "heartbeat_secs": 0.5,
        "timeout_secs": 60,
        "warn_after_secs": 0.5,
    }


@pytest.fixture
def remote(network: Network, options: dict[str, Any]) -> Iterator[list[RankWithChild]]:
    """Rank 0 on the left host, which has the store, and ranks 1 and 2 on the right; joined."""
    with ExitStack() as stack:
        ranks = []
        for rank, host in enumerate(("left", "right", "right")):
            ranks.append(RankWithChild(network, host, rank, 3, _UNDER_A_SHELL))
            stack.callback(ranks[-1].end)
        run(ranks, "create", **options)
        run(ranks, "rounds", count=3)
        yield ranks


def answers_after_the_death(dying: RankWithChild, others: list[RankWithChild]) -> list[Any]:
    """Kill a rank with a child while the others wait; return what they say of it."""
    run([dying], "fork", secs=_STAYS_SECS)
    for rank in others:
        rank.tell("wait", say_so=True)
    for rank in others:
        assert rank.answer()["waits"]
    child = dying.kill_alone()
    answers = [rank.answer() for rank in others]
    os.kill(child, 0)  # it lives
    return answers


def test_a_rank_killed_on_the_other_host_is_dead_although_its_child_lives(
    remote: list[RankWithChild],
) -> None:
    answers = answers_after_the_death(remote[2], remote[:2])
    assert [(answer["kind"], answer["missing"]) for answer in answers] == [("dead", [2])] * 2


def test_a_host_killed_on_the_other_host_is_gone_although_its_child_lives(
    network: Network, remote: list[RankWithChild], options: dict[str, Any]
) -> None:
    with soon():
        answers = answers_after_the_death(remote[0], remote[1:])
    assert [answer["error"] for answer in answers] == ["BarrierConnectionError"] * 2
    again = RankWithChild(network, "left", 0, 3)
    try:
        run([again], "create", generation="1", **options)
    finally:
        again.end()
