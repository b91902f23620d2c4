"""Rounds between real processes: safe, and decided once for all ranks."""

from __future__ import annotations

import mmap
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from barrier_core.testing.rank_processes import RankProcesses, state, wait_until
from barrier_core.verdict import Verdict
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import soon, the_verdict, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import (
    Job,
    abort,
    arrive,
    arrive_and_tell,
    go_through,
    join,
    pretend_old_server,
    report_every,
    try_to_arrive,
    two_barriers_at_once,
)
from tests.support.sizes import size


def go_through_with_delays(rank: int, job: Job, rounds: int, counters: Path) -> None:
    """Go through the barrier, now and then late; check on leaving that all have entered."""
    dice = random.Random(rank)
    with counters.open("r+b") as file:
        # One store of 8 bytes each, so that nobody reads a half-written counter: no struct here,
        # which clears the bytes before it writes them.
        entered = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        for number in range(1, rounds + 1):
            if dice.random() < 0.3:
                time.sleep(dice.expovariate(1000))
            entered[rank] = number
            arrive(rank, job)
            for other in range(job.world_size):
                in_round = entered[other]
                assert in_round >= number, f"left round {number}, rank {other} is in {in_round}"


def test_nobody_leaves_a_round_before_all_have_entered_it(
    ranks: RankProcesses, any_job: Job, tmp_path: Path
) -> None:
    counters = tmp_path / "counters"
    counters.write_bytes(bytes(8 * len(ranks)))
    rounds = 2000 if any_job.can_count else 300
    ranks.run_all(join, any_job)
    ranks.run_all(go_through_with_delays, any_job, rounds, counters)
    assert list(memoryview(counters.read_bytes()).cast("Q")) == [rounds] * len(ranks)


def race_against_the_deadline(rank: int, job: Job, timeouts: list[float]) -> list[Verdict | None]:
    """Have the last rank arrive as the others' time runs out; return what each race came to.

    The aim moves towards the deadline's other side after every shot, so that both outcomes occur on
    a machine of any speed.
    """
    offset = 0.0
    outcomes = []
    for number, timeout_secs in enumerate(timeouts):
        race = job.but(prefix=f"{job.prefix}/{number}")
        state[race.prefix] = race.make(rank)
        arrive(rank, race)  # all start together
        if rank == race.world_size - 1:
            time.sleep(max(timeout_secs + offset, 0.0))
            verdict = try_to_arrive(rank, race, 60)
            offset += 0.0005 if verdict is None else -0.0005
        else:
            verdict = try_to_arrive(rank, race, timeout_secs)
        outcomes.append(verdict)
        state.pop(race.prefix).close()
    return outcomes


RACES_AT_ONCE = 5  # a rank that comes too late takes a while to be told so


def race_in_threads(rank: int, job: Job, timeouts: list[float]) -> list[Verdict | None]:
    """Run several series of races at once."""
    lanes = [job.but(prefix=f"{job.prefix}/{lane}") for lane in range(RACES_AT_ONCE)]
    with ThreadPoolExecutor(RACES_AT_ONCE) as pool, pretend_old_server(job):
        outcomes = pool.map(lambda lane: race_against_the_deadline(rank, lane, timeouts), lanes)
        return [outcome for lane in outcomes for outcome in lane]


# Some with the watcher already at work (it comes after 0.25 s), most without. A hundred races end
# in time and too late dozens of times each.
@pytest.mark.parametrize(
    ("can_count", "timeouts"),
    [(True, size([0.05] * 16 + [0.33] * 4, [0.05] * 48 + [0.33] * 12)), (False, [0.05] * 8)],
)
def test_a_timeout_that_races_with_the_last_arrival_is_never_split(
    ranks: RankProcesses, new_job: NewJob, can_count: bool, timeouts: list[float]
) -> None:
    job = new_job(can_count=can_count, heartbeat_secs=0)
    races = list(zip(*ranks.run_all(race_in_threads, job, timeouts), strict=True))
    assert len(races) == len(timeouts) * RACES_AT_ONCE
    counts: Counter[str] = Counter()
    for number, verdicts in enumerate(races):
        assert verdicts.count(verdicts[0]) == len(verdicts), f"race {number} is split: {verdicts}"
        counts["passed" if verdicts[0] is None else verdicts[0].kind] += 1
    assert set(counts) == {"passed", "timeout"}, counts
    assert min(counts.values()) > len(races) // 20, counts


def test_a_round_whose_time_runs_out_names_the_missing_rank_and_what_it_did_last(
    ranks: RankProcesses, any_job: Job
) -> None:
    ranks.run_all(join, any_job)
    ranks.run_all(arrive, any_job)
    calls = ranks.start_all(arrive, any_job, 0.5, ranks=[0, 1, 3])
    with soon():
        verdict = the_verdict(calls)
    assert verdict.kind == "timeout"
    assert verdict.round == 2
    assert [status.rank for status in verdict.missing] == [2]
    assert verdict.missing[0].pid == ranks.pid(2)
    # Who is late gets the same verdict at once, and so does who tries again.
    assert the_verdict(ranks.start_all(arrive, any_job)) == verdict


def test_progress_extends_the_deadline_for_as_long_as_it_is_reported(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(timeout_secs=2, progress_extends_deadline=True)
    ranks.run_all(join, job)
    calls = ranks.start_all(arrive, job, ranks=[0, 1, 2])
    ranks.run(3, report_every, job, 0.3, [f"shard {shard}" for shard in range(9)])
    assert not any(call.done() for call in calls)  # 2.7 s have passed
    with soon():
        verdict = the_verdict(calls)
    assert (verdict.kind, verdict.missing[0].progress) == ("timeout", "shard 8")


@pytest.mark.parametrize("waiting", [[0, 1], [0, 1, 3]])
def test_different_tags_break_the_round(
    ranks: RankProcesses, any_job: Job, waiting: list[int]
) -> None:
    ranks.run_all(join, any_job)
    calls = ranks.start_all(arrive, any_job, None, ranks=waiting)
    calls.append(ranks.start(2, arrive, any_job, None, "save step=1200"))
    with soon():
        verdict = the_verdict(calls)
    assert verdict.kind == "mismatch"
    assert verdict.tags is not None
    assert verdict.tags["save step=1200"] == "2"
    assert "save step=1200" in str(verdict)


def test_an_abort_reaches_all_waiting_ranks(ranks: RankProcesses, any_job: Job) -> None:
    ranks.run_all(join, any_job)
    calls = ranks.start_all(arrive, any_job, ranks=[0, 1, 2])
    wait_until_arrived(any_job, [0, 1, 2])
    with soon():
        ranks.run(3, abort, any_job, "disk full on /ckpt")
        verdict = the_verdict(calls)
    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 3, "disk full on /ckpt")


def test_a_killed_rank_breaks_the_round_long_before_the_timeout(
    ranks: RankProcesses, any_job: Job
) -> None:
    ranks.run_all(join, any_job)
    pid = ranks.pid(3)
    calls = ranks.start_all(arrive, any_job, ranks=[0, 1, 2])
    wait_until_arrived(any_job, [0, 1, 2])
    with soon():
        ranks.kill(3)
        verdict = the_verdict(calls)
    assert verdict.kind == "dead"
    assert [(status.rank, status.pid, status.state) for status in verdict.missing] == [
        (3, pid, "dead")
    ]


def test_two_barriers_with_different_prefixes_share_a_store_without_meeting(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    jobs = [new_job(), new_job()]
    for job in jobs:
        ranks.run_all(join, job)
    ranks.run_all(two_barriers_at_once, jobs, 300)


def test_prefixes_that_look_like_rounds_of_each_other_do_not_meet(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    # In torch's barriers, prefix "ckpt1" round 1 and prefix "ckpt" round 11 were one key.
    short = new_job(world_size=2)
    long = new_job(world_size=2).but(prefix=f"{short.prefix}1")
    for job in (short, long):
        ranks.run_all(join, job, ranks=[0, 1])
    ranks.run_all(go_through, short, 10, ranks=[0, 1])
    first = ranks.start(0, arrive, long)
    wait_until_arrived(long, [0])
    assert ranks.run(1, try_to_arrive, short, 0.5) is not None  # rank 0 is not in this one
    assert ranks.run(1, arrive, long) == first.result() == 1


@pytest.mark.parametrize("seconds", [2_147_484.0, 1e10, sys.float_info.max, None])
def test_a_slow_round_of_a_large_limit_goes_on_until_the_last_rank_comes(
    ranks: RankProcesses, any_job: Job, tmp_path: Path, seconds: float | None
) -> None:
    large = seconds or sys.float_info.max
    job = any_job.but(
        timeout_secs=seconds,
        heartbeat_secs=large,
        linger_secs=large,
        timeout_barrier_init_secs=large,
        warn_after_secs=large,
    )
    ranks.run_all(join, job)
    has_looked = tmp_path / "has looked"
    first = ranks.start(0, arrive_and_tell, job, has_looked)
    wait_until(has_looked.exists, "rank 0 looks who is missing")

    for call in [ranks.start(rank, arrive, job) for rank in range(1, 4)]:
        call.result()
    first.result()
