"""Barriers and threads: one thread at a time in each, and collectives beside them."""

from __future__ import annotations

import atexit
import os
import threading
from datetime import timedelta
from typing import Any

from barrier_core.errors import BarrierFailedError, BarrierUsageError
from barrier_core.testing.rank_processes import RankProcesses, state, wait_until
from plugins.tcp_store.tests.looking import client_of, soon, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import Job, arrive, go_through, join


def start_arriving_in_a_thread(rank: int, job: Job) -> None:
    """Arrive in another thread."""

    def arrive_and_keep() -> None:
        try:
            arrive(rank, job)
        except BarrierFailedError as error:
            state["outcome"] = error

    thread = state["thread"] = threading.Thread(target=arrive_and_keep)
    thread.start()


def join_the_thread(rank: int) -> object:
    """Return what the other thread's round came to."""
    state.pop("thread").join()
    return state.pop("outcome", "passed")


def test_two_threads_of_a_rank_in_one_barrier_are_an_error_that_harms_nobody(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    ranks.run(0, start_arriving_in_a_thread, job)
    wait_until_arrived(job, [0])
    for function in (arrive, close_it):
        error = ranks.start(0, function, job).error()
        assert isinstance(error, BarrierUsageError)
        assert "two threads of rank 0 use the same tcp_store barrier at once" in str(error)
    ranks.run_all(arrive, job, ranks=[1, 2, 3])
    assert ranks.run(0, join_the_thread) == "passed"


def close_it(rank: int, job: Job) -> None:
    """Close the barrier, and keep it."""
    state[job.prefix].close()


def all_reduce_beside_a_barrier(rank: int, job: Job, port: int, rounds: int) -> None:
    """Run gloo collectives in the main thread while a thread goes through a barrier."""
    import torch.distributed

    dist: Any = torch.distributed  # its stores are public, but not in its __all__
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(job.prefix, store),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    try:
        failures: list[BaseException] = []

        def in_background() -> None:
            try:
                go_through(rank, job, rounds)
            except BaseException as error:  # told below, in the main thread
                failures.append(error)

        thread = threading.Thread(target=in_background)
        thread.start()
        for number in range(rounds):
            tensor = torch.ones(1000)
            dist.all_reduce(tensor)
            assert tensor[0] == 2, f"all_reduce {number} was not by both ranks"
        thread.join()
        if failures:
            raise failures[0]
    finally:
        dist.destroy_process_group()


def test_a_barrier_in_a_background_thread_runs_beside_gloo_collectives(
    ranks: RankProcesses, job: Job, libuv_port: int
) -> None:
    pair = job.but(world_size=2)
    ranks.run_all(join, pair, ranks=[0, 1])
    ranks.run_all(all_reduce_beside_a_barrier, pair, libuv_port, 300, ranks=[0, 1])


def fork_a_child(rank: int) -> int:
    """Fork a child that ends as a script does; return its exit code."""
    child = os.fork()
    if child == 0:
        atexit._run_exitfuncs()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_does_not_sign_its_parent_off(ranks: RankProcesses, job: Job) -> None:
    ranks.run_all(join, job)
    assert ranks.run(0, fork_a_child) == 0
    ranks.run_all(arrive, job)


def test_a_closed_barrier_ends_its_thread_and_connections(ranks: RankProcesses, job: Job) -> None:
    before = ranks.run(0, threads_and_descriptors)
    for _ in range(3):
        ranks.run_all(join, job)
        ranks.run_all(arrive, job)
        ranks.run_all(close_it, job)
    with soon():
        wait_until(lambda: ranks.run(0, threads_and_descriptors) == before, "all is released", 5)
    client_of(job).close()


def threads_and_descriptors(rank: int) -> tuple[list[str], int]:
    """Return the names of this process's threads and the number of its descriptors."""
    names = sorted(thread.name for thread in threading.enumerate())
    return names, len(os.listdir("/proc/self/fd"))
