"""Who may join: one process per rank, all of one shape, all of one generation."""

from __future__ import annotations

import pytest

from barrier_core.errors import BarrierSetupError, RankConflictError
from barrier_core.testing.rank_processes import RankProcesses, state
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import (
    client_of,
    keys_of,
    soon,
    the_verdict,
    wait_until_arrived,
)
from plugins.tcp_store.tests.rank_functions import (
    Job,
    arrive,
    close,
    join,
    join_as,
    make_use_and_close,
)


def test_a_second_process_of_a_rank_is_refused_and_the_waiting_ranks_are_told(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(world_size=3)
    ranks.run_all(join, job, ranks=[0, 1, 2])
    calls = ranks.start_all(arrive, job, ranks=[0, 1])
    wait_until_arrived(job, [0, 1])
    with soon():
        with pytest.raises(RankConflictError, match=f"rank is taken by pid {ranks.pid(1)} on"):
            ranks.run(3, join_as, job, 1)
        verdict = the_verdict(calls)
    assert the_verdict([ranks.start(2, arrive, job)]) == verdict
    assert verdict.kind == "conflict"
    assert f"rank 1 (pid {ranks.pid(3)} on" in verdict.reason


def test_a_second_process_of_a_rank_breaks_the_next_round_of_idle_ranks(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(world_size=3, heartbeat_secs=0.2)
    ranks.run_all(join, job, ranks=[0, 1, 2])
    ranks.run_all(arrive, job, ranks=[0, 1, 2])
    with pytest.raises(RankConflictError):
        ranks.run(3, join_as, job, 1)
    verdict = the_verdict(ranks.start_all(go_on, job, ranks=[0, 1, 2]))
    assert verdict.kind == "conflict"


def go_on(rank: int, job: Job) -> None:
    """Go through rounds until one is broken."""
    while True:
        state[job.prefix].execute_barrier()


def test_ranks_that_were_told_different_world_sizes_do_not_meet(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job, ranks=[0, 1, 2])
    calls = ranks.start_all(arrive, job, ranks=[0, 1, 2])
    with (
        soon(),
        pytest.raises(RankConflictError, match="told a world size of 5, the ranks before it 4"),
    ):
        ranks.run(3, join, job.but(world_size=5))
    assert the_verdict(calls).kind == "conflict"


def test_a_rank_that_comes_back_alone_is_refused_and_the_others_are_told(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    ranks.run_all(arrive, job)
    ranks.replace(1)
    with pytest.raises(RankConflictError, match="came back alone; restart all ranks, in a new"):
        ranks.run(1, join, job)
    with soon():
        verdict = the_verdict(ranks.start_all(arrive, job, ranks=[0, 2, 3]))
    assert verdict.kind == "conflict"
    assert "came back alone" in verdict.reason


def test_a_rank_that_comes_back_alone_is_refused_in_the_third_barrier_of_its_name_as_well(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    ranks.run_all(make_use_and_close, hosted_job, 2)
    ranks.run_all(join, hosted_job)
    ranks.replace(1)
    with soon(), pytest.raises(RankConflictError, match="came back alone; restart all ranks"):
        ranks.run(1, join, hosted_job)
    assert the_verdict(ranks.start_all(arrive, hosted_job, ranks=[0, 2, 3])).kind == "conflict"


def test_a_rank_whose_host_makes_other_barriers_is_told_so_when_its_time_is_up(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    job = hosted_job.but(timeout_barrier_init_secs=1)
    ranks.run(0, join, job.but(linger_secs=0.1))
    with soon(), pytest.raises(BarrierSetupError, match=r"rank 0 has not come to .* 'strange'"):
        ranks.run(1, join, job.but(prefix="strange"))
    with soon(), pytest.raises(BarrierSetupError, match=r"generation 1\.0; .* there is 0\.0\."):
        ranks.run(1, join, job.but(generation="1"))


def test_a_job_restarted_in_a_new_generation_sees_nothing_of_the_one_before(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    ranks.run_all(arrive, job)
    for rank in range(4):
        ranks.kill(rank)
        ranks.replace(rank)
    again = job.but(generation="1")
    ranks.run_all(join, again)
    # With the keys of before, the first round would pass without rank 3.
    calls = ranks.start_all(arrive, again, 0.5, ranks=[0, 1, 2])
    verdict = the_verdict(calls)
    assert (verdict.kind, verdict.round) == ("timeout", 1)
    ranks.run_all(close, again)
    ranks.run_all(join, again.but(generation="2"))
    assert ranks.run_all(arrive, again.but(generation="2")) == [1, 1, 1, 1]
    ranks.run_all(close, again)


def test_a_broken_barrier_works_again_when_all_ranks_have_made_it_anew(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    calls = ranks.start_all(arrive, job, 0.3, ranks=[0, 1, 2])
    assert the_verdict(calls).kind == "timeout"
    the_verdict([ranks.start(3, arrive, job)])  # told so: it would not make an open barrier anew
    ranks.run_all(join, job)
    assert ranks.run_all(arrive, job) == [1, 1, 1, 1]


def test_the_store_holds_the_members_of_the_running_generation_only(
    ranks: RankProcesses, job: Job
) -> None:
    client = client_of(job)
    for generation in range(4):
        current = job.but(generation=str(generation))
        ranks.run_all(join, current)
        ranks.run_all(arrive, current)
        ranks.run_all(close, current)
        assert client.read([keys_of(current).member(rank) for rank in range(4)]) == [None] * 4
    client.close()
