"""Ranks and stores that die, freeze, abort or are interrupted: one verdict, in time, with names."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from barrier_core.errors import BarrierConnectionError
from barrier_core.testing.rank_processes import RankCall, RankProcesses, wait_until
from plugins.tcp_store.tests.conftest import NewJob, StoreProcess
from plugins.tcp_store.tests.looking import (
    soon,
    the_verdict,
    wait_until_arrived,
    wait_until_reported,
)
from plugins.tcp_store.tests.rank_functions import (
    Job,
    abort,
    arrive,
    arrive_and_abort_from_a_signal_handler,
    arrive_and_abort_from_a_thread,
    arrive_and_note_warnings,
    arrive_and_tell,
    close,
    exit_without_arriving,
    fail_in_phase,
    fail_in_with,
    hold_the_interpreter,
    join,
    join_and_arrive_as,
    join_as,
    report_progress,
)

OTHERS = [0, 1, 2]


def all_but_rank_3_wait(ranks: RankProcesses, job: Job) -> list[RankCall[int]]:
    """Have ranks 0 to 2 wait in round 1 for rank 3, which has joined."""
    ranks.run_all(join, job)
    calls = ranks.start_all(arrive, job, ranks=OTHERS)
    wait_until_arrived(job, OTHERS)
    return calls


def test_a_rank_killed_before_it_arrives_is_reported_dead_by_name(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(heartbeat_secs=0.5)
    calls = all_but_rank_3_wait(ranks, job)
    pid = ranks.pid(3)
    with soon():
        ranks.kill(3)
        verdict = the_verdict(calls)
    assert verdict.kind == "dead"
    (missing,) = verdict.missing
    assert (missing.rank, missing.state) == (3, "dead")
    assert (missing.host, missing.pid) == (socket.gethostname(), pid)
    assert f"rank 3 ({socket.gethostname()}, pid {pid}), dead, its process is gone" in str(verdict)


def test_a_rank_killed_after_it_has_arrived_counts_and_breaks_the_next_round(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(heartbeat_secs=0.5)
    ranks.run_all(join, job)
    ranks.start(3, arrive, job)
    wait_until_arrived(job, [3])
    ranks.kill(3)
    assert ranks.run_all(arrive, job, ranks=OTHERS) == [1, 1, 1]
    with soon():
        verdict = the_verdict(ranks.start_all(arrive, job, ranks=OTHERS))
    assert (verdict.kind, verdict.round) == ("dead", 2)


def test_a_killed_rank_is_found_by_its_pid_without_heartbeats(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    calls = all_but_rank_3_wait(ranks, new_job(heartbeat_secs=0))
    with soon():
        ranks.kill(3)
        assert the_verdict(calls).kind == "dead"


def test_a_dead_rank_is_found_when_those_who_looked_after_it_have_died_as_well(
    ranks: RankProcesses, new_job: NewJob, tmp_path: Path
) -> None:
    job = new_job(world_size=5)
    ranks.run_all(join, job, ranks=[3])
    ranks.run(2, join_as, job, 4)
    ranks.start(0, join_and_arrive_as, job, [0, 1, 2])
    wait_until_arrived(job, [0, 1, 2])  # the first three look every half second
    call = ranks.start(3, arrive_and_tell, job, tmp_path / "has looked")
    wait_until((tmp_path / "has looked").exists, "rank 3 has looked for the first time")
    ranks.kill(0)
    with soon():
        ranks.kill(2)
        verdict = the_verdict([call])
    assert verdict.kind == "dead"
    assert [(status.rank, status.state) for status in verdict.missing] == [(4, "dead")]


def test_a_frozen_rank_is_reported_alive_and_stopped_when_the_time_is_up(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(timeout_secs=2, heartbeat_secs=0.5)
    ranks.run_all(join, job)
    ranks.run(3, report_progress, job, "shard 12/40")
    wait_until_reported(job, 3, "shard 12/40")
    ranks.stop(3)
    late = ranks.start(3, arrive, job)
    calls = ranks.start_all(arrive, job, ranks=OTHERS)
    with soon():
        verdict = the_verdict(calls)
    assert verdict.kind == "timeout"
    (missing,) = verdict.missing
    assert (missing.rank, missing.state, missing.detail) == (3, "alive", "stopped by a signal")
    assert missing.progress == "shard 12/40"
    ranks.cont(3)
    assert the_verdict([late]) == verdict


def test_a_rank_whose_python_does_not_run_is_alive_and_said_to_be_silent(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(timeout_secs=4, heartbeat_secs=0.5)
    ranks.run_all(join, job)
    ranks.start(3, hold_the_interpreter, 8)
    verdict = the_verdict(ranks.start_all(arrive, job, ranks=OTHERS))
    (missing,) = verdict.missing
    assert (missing.rank, missing.state) == (3, "alive")
    assert re.fullmatch(r"no heartbeat for \d+ s: its Python does not run", str(missing.detail))


def test_a_warning_in_time_says_that_the_host_of_the_store_is_stopped(
    ranks: RankProcesses, hosted_job: Job, tmp_path: Path
) -> None:
    job = hosted_job.but(timeout_secs=20, warn_after_secs=1)
    ranks.run_all(join, job)
    ranks.stop(0)
    calls = ranks.start_all(arrive_and_note_warnings, job, tmp_path, ranks=[1, 2, 3])
    noted = [tmp_path / str(rank) for rank in (1, 2, 3)]
    wait_until(lambda: all(each.exists() for each in noted), "all ranks have warned")
    for each in noted:
        assert each.read_text().startswith(f"rank 0 ({socket.gethostname()}, pid {ranks.pid(0)}), ")
        assert each.read_text().endswith(": stopped by a signal")
    ranks.cont(0)
    ranks.start(0, arrive, job).result()
    assert [call.result() for call in calls] == [1, 1, 1]


def test_a_frozen_store_ends_every_wait_soon_after_its_time_is_up(
    ranks: RankProcesses, store_process: StoreProcess, new_job: NewJob, own_port: int
) -> None:
    job = new_job(agent_port=own_port, timeout_secs=2)
    calls = all_but_rank_3_wait(ranks, job)
    store_process.stop()
    try:
        with soon():
            errors = [call.error() for call in calls]
        with soon():
            codes = end(ranks, OTHERS)
    finally:
        store_process.cont()
    for error in errors:
        assert isinstance(error, BarrierConnectionError)
        assert "Whether other ranks have passed is not known" in str(error)
    assert codes == [0, 0, 0]


def test_a_frozen_host_of_the_store_ends_every_wait_soon_after_its_time_is_up(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    job = hosted_job.but(timeout_secs=2, linger_secs=1)
    ranks.run_all(join, job)
    calls = ranks.start_all(arrive, job, ranks=[1, 2, 3])
    wait_until_arrived(job, [1, 2, 3])
    ranks.stop(0)
    with soon():
        errors = [call.error() for call in calls]
    assert {type(error) for error in errors} == {BarrierConnectionError}
    with soon():
        assert end(ranks, [1, 2, 3]) == [0, 0, 0]
    ranks.cont(0)


def end(ranks: RankProcesses, which: list[int]) -> list[int]:
    """Have rank processes end as scripts do; return their exit codes."""
    for rank in which:
        ranks.let_end(rank)
    return [ranks.exit_code(rank) for rank in which]


def test_a_store_that_dies_ends_every_wait_at_once(
    ranks: RankProcesses, new_job: NewJob, store_process: StoreProcess
) -> None:
    port = store_process.serve(use_libuv=True)
    job = new_job(agent_port=port)
    calls = all_but_rank_3_wait(ranks, job)
    with soon():
        store_process.end(port)
        assert the_verdict(calls).kind == "store"
    with soon():
        assert the_verdict([ranks.start(3, arrive, job)]).kind == "store"


# How a waiting job is broken on purpose. Each returns the calls of all ranks that waited.
Trigger = Callable[[RankProcesses, Job, Path], list[RankCall[Any]]]


def abort_elsewhere(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    calls: list[RankCall[Any]] = [*all_but_rank_3_wait(ranks, job)]
    ranks.run(3, abort, job, "no space")
    return calls


def abort_in_another_thread(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    ranks.run_all(join, job)
    calls: list[RankCall[Any]] = [*ranks.start_all(arrive, job, ranks=[0, 1])]
    calls.append(ranks.start(2, arrive_and_abort_from_a_thread, job, "no space", go))
    wait_until_arrived(job, OTHERS)
    go.touch()
    return calls


def abort_in_a_signal_handler(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    ranks.run_all(join, job)
    calls: list[RankCall[Any]] = [*ranks.start_all(arrive, job, ranks=[0, 1])]
    calls.append(ranks.start(2, arrive_and_abort_from_a_signal_handler, job, "no space"))
    wait_until_arrived(job, OTHERS)
    ranks.signal(2, signal.SIGUSR2)
    return calls


def leave_a_phase_by_an_exception(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    calls: list[RankCall[Any]] = [*all_but_rank_3_wait(ranks, job)]
    with pytest.raises(OSError, match="disk full"):
        ranks.run(3, fail_in_phase, job, "save step=1200")
    return calls


def close_the_barrier(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    calls: list[RankCall[Any]] = [*all_but_rank_3_wait(ranks, job)]
    ranks.run(3, close, job)
    return calls


def leave_by_an_exception(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    calls: list[RankCall[Any]] = [*all_but_rank_3_wait(ranks, job)]
    with pytest.raises(OSError, match="disk full"):
        ranks.run(3, fail_in_with, job)
    return calls


def end_the_process(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    calls: list[RankCall[Any]] = [*all_but_rank_3_wait(ranks, job)]
    assert "exited with code 0" in str(ranks.start(3, exit_without_arriving).error())
    return calls


def press_ctrl_c(ranks: RankProcesses, job: Job, go: Path) -> list[RankCall[Any]]:
    ranks.run_all(join, job)
    calls: list[RankCall[Any]] = [*ranks.start_all(arrive, job, ranks=[0, 1])]
    interrupted = ranks.start(2, arrive, job)
    wait_until_arrived(job, OTHERS)
    with soon():
        ranks.interrupt(2)
        assert isinstance(interrupted.error(), KeyboardInterrupt)
    return [*calls, ranks.start(2, arrive, job)]


@pytest.mark.parametrize(
    ("trigger", "kind", "rank", "reason"),
    [
        (abort_elsewhere, "abort", 3, "no space"),
        (abort_in_another_thread, "abort", 2, "no space"),
        (abort_in_a_signal_handler, "abort", 2, "no space"),
        (leave_a_phase_by_an_exception, "abort", 3, "disk full on /ckpt in phase 'save step=1200'"),
        (close_the_barrier, "left", None, "found that rank 3 has left"),
        (leave_by_an_exception, "abort", 3, "OSError: disk full on /ckpt"),
        (end_the_process, "left", None, ""),
        (press_ctrl_c, "abort", 2, "KeyboardInterrupt"),
    ],
)
def test_a_round_given_up_by_one_rank_is_broken_for_all(
    ranks: RankProcesses,
    job: Job,
    tmp_path: Path,
    trigger: Trigger,
    kind: str,
    rank: int | None,
    reason: str,
) -> None:
    calls = trigger(ranks, job, tmp_path / "go")
    with soon():
        verdict = the_verdict(calls)
    assert verdict.kind == kind
    if rank is not None:
        assert verdict.rank == rank
    assert reason in verdict.reason
    assert [status.rank for status in verdict.missing] == [3]


def test_an_abort_before_a_round_breaks_that_round(ranks: RankProcesses, job: Job) -> None:
    ranks.run_all(join, job)
    ranks.run_all(arrive, job)
    ranks.run(1, abort, job, "preempted")
    verdict = the_verdict(ranks.start_all(arrive, job))
    assert (verdict.kind, verdict.rank, verdict.round) == ("abort", 1, 2)


def test_a_broken_barrier_raises_its_verdict_again_at_every_call(
    ranks: RankProcesses, job: Job
) -> None:
    calls = all_but_rank_3_wait(ranks, job)
    ranks.run(3, abort, job, "no space")
    verdict = the_verdict(calls)
    for _ in range(3):
        with soon():
            assert the_verdict(ranks.start_all(arrive, job)) == verdict
