"""A rank whose process is killed and started again before it has been in a round."""

from __future__ import annotations

import random
import time

import pytest

from barrier_core.errors import RankConflictError
from barrier_core.testing.rank_processes import RankProcesses
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import soon, the_verdict, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import Job, arrive, join, join_as, try_to_arrive
from tests.support.sizes import size


def restart(ranks: RankProcesses, rank: int) -> None:
    ranks.kill(rank)
    ranks.replace(rank)


def test_a_rank_restarted_before_its_first_round_joins_again(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    for rank in (1, 2):
        restart(ranks, rank)
    for call in ranks.start_all(join, job, ranks=[1, 2]):
        call.result()
    restart(ranks, 1)
    ranks.run(1, join, job)
    for number in range(1, 4):
        assert ranks.run_all(arrive, job) == [number] * 4


def test_a_rank_restarted_when_it_has_been_in_a_round_is_refused(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    ranks.start(1, arrive, job)
    wait_until_arrived(job, [1])
    restart(ranks, 1)
    with pytest.raises(RankConflictError, match="came back alone; restart all ranks"):
        ranks.run(1, join, job)


def test_of_two_processes_that_restart_a_rank_at_once_one_gets_it(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    for _ in range(size(1, 100)):
        job = new_job(world_size=3)
        ranks.run_all(join, job, ranks=[0, 1, 2])
        restart(ranks, 1)
        calls = [ranks.start(1, join, job), ranks.start(3, join_as, job, 1)]
        errors = [call.error() for call in calls]
        (refused,) = [error for error in errors if error is not None]
        assert isinstance(refused, RankConflictError)
        assert "the rank is taken by pid" in str(refused)


def test_a_waiting_rank_calls_a_restarted_one_dead_on_all_ranks_or_on_none(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    for _ in range(size(3, 200)):
        job = new_job(world_size=3, heartbeat_secs=0.2)
        ranks.run_all(join, job, ranks=[0, 1, 2])
        ranks.kill(1)
        calls = [ranks.start(0, try_to_arrive, job)]
        time.sleep(random.uniform(0.0, 0.4))
        ranks.replace(1)
        with soon():
            ranks.run(1, join, job)
            time.sleep(random.choice([0.0, random.uniform(0.0, 0.6)]))
            calls += [ranks.start(rank, try_to_arrive, job) for rank in (1, 2)]
            verdicts = [call.result() for call in calls]
        assert verdicts == verdicts[:1] * 3
        if verdicts[0] is None:
            assert ranks.run_all(arrive, job, ranks=[0, 1, 2]) == [2, 2, 2]
        else:
            assert (verdicts[0].kind, verdicts[0].round) == ("dead", 1)


def test_a_rank_restarted_while_others_wait_is_told_that_they_found_it_dead(
    ranks: RankProcesses, job: Job
) -> None:
    ranks.run_all(join, job)
    ranks.kill(1)
    with soon():
        verdict = the_verdict(ranks.start_all(arrive, job, ranks=[0, 2, 3]))
        assert verdict.kind == "dead"
        ranks.replace(1)
        ranks.run(1, join, job)
        assert the_verdict([ranks.start(1, arrive, job)]) == verdict
        ranks.run_all(join, job)
        assert ranks.run_all(arrive, job) == [1, 1, 1, 1]
