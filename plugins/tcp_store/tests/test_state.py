"""What barriers leave in the store: a bounded number of keys, and in the end next to none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from barrier_core.agreement.cleanup import BATCH_ROUNDS
from barrier_core.testing.rank_processes import RankProcesses, wait_until
from plugins.tcp_store.tests.conftest import NewJob, StoreProcess
from plugins.tcp_store.tests.looking import the_verdict
from plugins.tcp_store.tests.rank_functions import (
    Job,
    arrive,
    close,
    count_keys,
    go_through,
    join,
)

CONSTANT_KEYS = 1  # whether the server can count
KEYS_PER_ROUND = 2  # its log and its release signal
UNFINISHED_ROUNDS = 3 * BATCH_ROUNDS
"""Rounds whose keys may be there: the batch that fills up, and one or two on their way out."""


def test_the_number_of_keys_does_not_grow_with_the_rounds(
    ranks: RankProcesses, store_process: StoreProcess, new_job: NewJob, own_port: int
) -> None:
    empty = store_process.count_keys(own_port)
    job = new_job(agent_port=own_port)
    ranks.run_all(join, job)
    at_start = store_process.count_keys(own_port)
    limit = at_start + UNFINISHED_ROUNDS * KEYS_PER_ROUND
    for _ in range(5):
        ranks.run_all(go_through, job, 1000)
        # The watcher removes a batch in its own time.
        wait_until(
            lambda: store_process.count_keys(own_port) <= limit, f"at most {limit} keys are left"
        )
    ranks.run_all(close, job)
    assert store_process.count_keys(own_port) == empty + CONSTANT_KEYS


def resident_bytes(rank: int) -> int:
    """Return how much memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(300)  # 15 s on two quiet cores
def test_keys_and_memory_are_flat_over_100_000_rounds(
    ranks: RankProcesses, store_process: StoreProcess, new_job: NewJob, own_port: int
) -> None:
    job, pair = new_job(agent_port=own_port, world_size=2), [0, 1]
    ranks.run_all(join, job, ranks=pair)
    limit = store_process.count_keys(own_port) + UNFINISHED_ROUNDS * KEYS_PER_ROUND

    def memory() -> list[int]:
        server = store_process.processes.run(0, resident_bytes)
        return [server, *ranks.run_all(resident_bytes, ranks=pair)]

    sizes = []
    for _ in range(10):
        ranks.run_all(go_through, job, 10_000, ranks=pair)
        wait_until(
            lambda: store_process.count_keys(own_port) <= limit, f"at most {limit} keys are left"
        )
        sizes.append(memory())

    growth = [last - first for first, last in zip(sizes[0], sizes[-1], strict=True)]
    assert max(growth) < 4 * 2**20, sizes


def test_the_number_of_keys_does_not_grow_with_the_failures(
    ranks: RankProcesses, store_process: StoreProcess, new_job: NewJob, own_port: int
) -> None:
    job = new_job(agent_port=own_port, heartbeat_secs=0)
    counts = []
    for _ in range(20):
        ranks.run_all(join, job)  # closes the broken one before it
        ranks.run_all(go_through, job, 10)
        calls = ranks.start_all(arrive, job, 0.05, ranks=[0, 1, 2])
        assert the_verdict(calls).kind == "timeout"
        the_verdict([ranks.start(3, arrive, job)])
        counts.append(store_process.count_keys(own_port))
    assert max(counts[2:]) <= max(counts[:2]), counts
    ranks.run_all(close, job)
    assert store_process.count_keys(own_port) < counts[0]


def test_killed_jobs_leave_no_more_than_the_last_of_them(
    ranks: RankProcesses, store_process: StoreProcess, new_job: NewJob, own_port: int
) -> None:
    empty = store_process.count_keys(own_port)
    job = new_job(agent_port=own_port)
    counts = []
    for generation in range(4):
        current = job.but(generation=str(generation))
        ranks.run_all(join, current)
        ranks.run_all(go_through, current, 10)
        counts.append(store_process.count_keys(own_port))
        for rank in (0, 1):  # two of four are enough: no generation is signed off by all
            ranks.kill(rank)
            ranks.replace(rank)
        ranks.run_all(close, current)
    assert max(counts[2:]) <= counts[1], counts
    leave_well(ranks, job)
    assert store_process.count_keys(own_port) == empty + CONSTANT_KEYS


def leave_well(ranks: RankProcesses, job: Job) -> None:
    """Restart the job once more: all ranks meet, and close."""
    last = job.but(generation="last")
    ranks.run_all(join, last)
    ranks.run_all(go_through, last, 10)
    ranks.run_all(close, last)


def test_generations_that_rank_0_never_joined_leave_no_more_than_two_of_them(
    ranks: RankProcesses, store_process: StoreProcess, new_job: NewJob, own_port: int
) -> None:
    empty = store_process.count_keys(own_port)
    job = new_job(agent_port=own_port)
    counts = []
    for generation in range(6):
        current = job.but(generation=str(generation))
        ranks.run(1, join, current)
        counts.append(store_process.count_keys(own_port))
        ranks.kill(1)
        ranks.replace(1)
    # The list, and for each of two the records of the job and the member, and a heartbeat.
    assert max(counts) <= empty + CONSTANT_KEYS + 1 + 2 * 3, counts
    leave_well(ranks, job)
    assert store_process.count_keys(own_port) == empty + CONSTANT_KEYS


def test_a_closed_barrier_leaves_nothing_in_a_hosted_store_that_another_one_still_uses(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    other = hosted_job.but(prefix=f"{hosted_job.prefix}-other")
    ranks.run_all(join, hosted_job)
    at_start = ranks.run(0, count_keys, hosted_job.options["tcpstore_port"])
    ranks.run_all(join, other)
    ranks.run_all(arrive, other)
    ranks.run_all(close, other)
    assert ranks.run(0, count_keys, hosted_job.options["tcpstore_port"]) <= at_start
