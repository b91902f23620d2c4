"""The rank that hosts the store leaves last, however it leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from barrier_core import BarrierTimeoutError
from barrier_core.testing.rank_processes import RankProcesses, wait_until
from plugins.tcp_store.tests.looking import SOON_SECS, soon, the_verdict, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import (
    Job,
    arrive,
    arrive_and_exit,
    can_listen,
    close,
    go_through,
    has_imported,
    host_and_leave_first,
    join,
    make_anew,
    make_use_and_close,
    two_barriers_at_once,
)
from tests.support.ports import free_port

ENDED_WELL = "exited with code 0"


def test_a_host_that_closes_first_waits_for_the_others_50_times(
    ranks: RankProcesses, hosted_job: Job, tmp_path: Path
) -> None:
    fresh = [free_port() for _ in range(50)]
    closings = ranks.run_all(host_and_leave_first, hosted_job, fresh, tmp_path)
    for (_, host_ended), *others in zip(*closings, strict=True):
        assert host_ended > max(began for began, _ in others)


def test_a_host_whose_script_ends_first_waits_for_the_others(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(join, hosted_job)
    # Rank 1 is frozen while the host leaves: it must still find its store when it goes on.
    frozen = ranks.start(1, arrive_and_exit, hosted_job)
    wait_until_arrived(hosted_job, [1])
    ranks.stop(1)
    calls = ranks.start_all(arrive_and_exit, hosted_job, ranks=[0, 2, 3])
    assert ENDED_WELL in str(calls[1].error())
    assert ENDED_WELL in str(calls[2].error())
    assert not calls[0].done()
    ranks.cont(1)
    assert ENDED_WELL in str(frozen.error())
    assert ENDED_WELL in str(calls[0].error())


def test_a_host_does_not_wait_for_a_rank_that_is_dead(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(join, hosted_job)
    ranks.run_all(arrive, hosted_job)
    ranks.kill(3)
    ranks.run_all(close, hosted_job, ranks=[1, 2])
    with soon():
        ranks.run(0, close, hosted_job)


def test_a_host_waits_no_longer_than_it_is_told(ranks: RankProcesses, hosted_job: Job) -> None:
    job = hosted_job.but(linger_secs=1)
    ranks.run_all(join, job)
    started = time.monotonic()
    ranks.run(0, close, job)  # while the others are busy elsewhere
    assert 0.9 < time.monotonic() - started < SOON_SECS


def test_after_a_failure_a_host_waits_for_a_late_rank_for_a_few_seconds_only(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    job = hosted_job.but(timeout_secs=0.5, linger_secs=60)
    ranks.run_all(join, job)
    errors = [call.error() for call in ranks.start_all(arrive, job, ranks=[0, 1, 2])]
    assert {type(error) for error in errors} == {BarrierTimeoutError}
    with soon():
        ranks.run(0, close, job)


@pytest.mark.parametrize(("world_size", "aborts"), [(2, False), (4, False), (4, True)])
def test_a_hosted_barrier_is_made_anew_at_once_at_the_same_port(
    ranks: RankProcesses, hosted_job: Job, world_size: int, aborts: bool
) -> None:
    job = hosted_job.but(world_size=world_size)
    times = 6 if aborts else 12
    passed = ranks.run_all(make_use_and_close, job, times, 2, aborts, ranks=range(world_size))
    assert passed == [[2] * times] * world_size


def test_a_rank_that_is_early_does_not_stay_in_the_server_of_the_barrier_before(
    ranks: RankProcesses, hosted_job: Job, tmp_path: Path
) -> None:
    ranks.run_all(join, hosted_job)
    ranks.run_all(arrive, hosted_job)
    ranks.stop(2)
    calls = ranks.start_all(make_anew, hosted_job, tmp_path / "early", ranks=[1, 0, 3])
    late = ranks.start(2, make_anew, hosted_job, tmp_path / "late")
    wait_until((tmp_path / "early").exists, "a rank has closed, while the host waits for rank 2")
    ranks.cont(2)
    for call in (*calls, late):
        call.result()
    assert ranks.run_all(arrive, hosted_job) == [1, 1, 1, 1]


def test_a_restarted_job_hosts_its_store_at_the_port_of_the_one_before(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(join, hosted_job)
    ranks.run_all(arrive, hosted_job)
    for rank in (1, 2, 3):
        ranks.replace(rank)
    again = hosted_job.but(generation="1")
    early = ranks.start_all(join, again, ranks=[1, 2, 3])
    ranks.replace(0)  # until here, the store of the job before was there
    ranks.run(0, join, again)
    for call in early:
        call.result()
    assert ranks.run_all(arrive, again) == [1, 1, 1, 1]
    ranks.run_all(close, again)


def test_a_rank_that_missed_a_barrier_comes_to_the_one_that_rank_0_has_made_since(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(join, hosted_job, ranks=[0, 1, 2])
    calls = ranks.start_all(arrive, hosted_job, 0.3, ranks=[0, 1, 2])
    assert the_verdict(calls).kind == "timeout"
    for call in ranks.start_all(join, hosted_job, ranks=[0, 1, 2]):  # the broken one is closed
        call.result()
    ranks.run(3, join, hosted_job)
    assert ranks.run_all(arrive, hosted_job) == [1, 1, 1, 1]
    ranks.run_all(close, hosted_job)
    assert ranks.run_all(make_use_and_close, hosted_job, 2) == [[2, 2]] * 4


def test_barriers_of_different_prefixes_share_the_server_at_one_port(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    jobs = [hosted_job, hosted_job.but(prefix=f"{hosted_job.prefix}/other")]
    for first, last in (jobs, reversed(jobs)):
        for job in jobs:
            ranks.run_all(join, job)
        ranks.run_all(two_barriers_at_once, jobs, 100)
        ranks.run_all(close, first)
        ranks.run_all(go_through, last, 10)
        ranks.run_all(make_use_and_close, first, 3)  # anew, at a server that stays
        ranks.run_all(close, last)
        assert ranks.run(0, can_listen, hosted_job)


def test_the_ranks_may_close_their_barriers_in_different_orders(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    jobs = [hosted_job, hosted_job.but(prefix=f"{hosted_job.prefix}/other")]
    for host_first in (0, 1):
        for job in jobs:
            ranks.run_all(join, job)
        calls = ranks.start_all(close, jobs[1 - host_first], ranks=[1, 2, 3])
        calls += ranks.start_all(close, jobs[host_first])
        calls.append(ranks.start(0, close, jobs[1 - host_first]))
        for call in calls:
            call.result()
        assert ranks.run(0, can_listen, hosted_job)


def test_ranks_that_close_after_a_failure_do_not_hold_each_other_up(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(join, hosted_job)
    calls = ranks.start_all(arrive, hosted_job, 0.3, ranks=[0, 1, 2])
    assert the_verdict(calls).kind == "timeout"
    with soon():
        ranks.run_all(close, hosted_job)


def test_only_the_rank_that_hosts_the_store_imports_torch(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.replace(1)
    ranks.run_all(join, hosted_job)
    ranks.run_all(arrive, hosted_job)
    assert ranks.run_all(has_imported, "barrier_tcp_store", ranks=[0, 1]) == [True, True]
    assert ranks.run_all(has_imported, "torch", ranks=[0, 1]) == [True, False]
