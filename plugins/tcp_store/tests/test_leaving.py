"""The rank that hosts the store leaves last, however it leaves."""

from __future__ import annotations

import time
from pathlib import Path

from barrier_core.testing.processes import RankProcesses
from plugins.tcp_store.tests.conftest import Ports
from plugins.tcp_store.tests.looking import the_verdict, wait_until_arrived, within
from plugins.tcp_store.tests.rank_side import (
    Job,
    arrive,
    arrive_and_exit,
    close,
    has_imported,
    host_and_leave_first,
    join,
)

ENDED_WELL = "exited with code 0"


def test_a_host_that_closes_first_waits_for_the_others_50_times(
    ranks: RankProcesses, hosted_job: Job, ports: Ports, tmp_path: Path
) -> None:
    fresh = [ports.new() for _ in range(50)]
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
    with within(5):
        ranks.run(0, close, hosted_job)


def test_a_host_waits_no_longer_than_it_is_told(ranks: RankProcesses, hosted_job: Job) -> None:
    job = hosted_job.but(linger_secs=1)
    ranks.run_all(join, job)
    started = time.monotonic()
    ranks.run(0, close, job)  # while the others are busy elsewhere
    assert 0.9 < time.monotonic() - started < 5


def test_a_port_can_be_used_again_at_once(ranks: RankProcesses, hosted_job: Job) -> None:
    for prefix in ("first", "second"):
        job = hosted_job.but(prefix=prefix)
        ranks.run_all(join, job)
        ranks.run_all(arrive, job)
        ranks.run_all(close, job)


def test_ranks_that_close_after_a_failure_do_not_hold_each_other_up(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(join, hosted_job)
    calls = ranks.start_all(arrive, hosted_job, 0.3, ranks=[0, 1, 2])
    assert the_verdict(calls).kind == "timeout"
    with within(5):
        ranks.run_all(close, hosted_job)


def test_only_the_rank_that_hosts_the_store_imports_torch(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.replace(1)
    ranks.run_all(join, hosted_job)
    ranks.run_all(arrive, hosted_job)
    assert ranks.run_all(has_imported, "barrier_tcp_store", ranks=[0, 1]) == [True, True]
    assert ranks.run_all(has_imported, "torch", ranks=[0, 1]) == [True, False]
