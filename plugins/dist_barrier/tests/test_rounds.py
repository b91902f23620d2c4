"""What dist_barrier does among real ranks, over gloo."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from barrier_core import (
    BarrierConnectionError,
    BarrierError,
    BarrierFailedError,
    BarrierTimeoutError,
    BarrierUsageError,
    Verdict,
    create_barrier,
)
from barrier_core.testing.rank_processes import RankProcesses
from barrier_dist_barrier import DistBarrier
from barrier_dist_barrier.barrier import _barrier_with_wait
from tests.support.torch_ranks import WORLD_SIZE, assert_held, gloo_group

EVERYBODY = range(WORLD_SIZE)
SHORT_SECS = 1.0
LONG_SECS = 60.0


@pytest.fixture
def rendezvous(tmp_path: Path) -> Path:
    return tmp_path / "rendezvous"


def visit(barrier: DistBarrier, rounds: int) -> list[tuple[float, float]]:
    """Go through some rounds; return when each was entered and left."""
    visits = []
    for number in range(rounds):
        if barrier.rank_info.global_rank == number % barrier.rank_info.global_world_size:
            time.sleep(0.02)  # somebody is late in every round
        entered = time.monotonic()
        barrier.execute_barrier(tag=f"round {number}")
        visits.append((entered, time.monotonic()))
    return visits


def failure_of(barrier: DistBarrier, **arguments: Any) -> tuple[BarrierFailedError, float]:
    """Wait in a barrier that fails; return how, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(BarrierFailedError) as caught:
        barrier.execute_barrier(**arguments)
    return caught.value, time.monotonic() - started


def passes(rank: int, rendezvous: Path, options: dict[str, Any]) -> list[tuple[float, float]]:
    with gloo_group(rank, rendezvous), create_barrier("dist_barrier", **options) as barrier:
        assert isinstance(barrier, DistBarrier)
        visits = visit(barrier, rounds=20)
        assert barrier.round == len(visits)
        return visits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"own_group": True},
        {"timeout_secs": 30},
        {"timeout_secs": sys.float_info.max, "own_group": True},
        {"timeout_secs": None},
    ],
)
def test_no_rank_passes_early_in_any_round(
    ranks: RankProcesses, rendezvous: Path, options: dict[str, Any]
) -> None:
    assert_held(ranks.run_all(passes, rendezvous, options))


def misses(
    rank: int,
    rendezvous: Path,
    missing: list[int],
    default_secs: float,
    call_secs: float | None,
    own_group: bool,
) -> tuple[Verdict, float, str] | None:
    with gloo_group(rank, rendezvous):
        barrier = DistBarrier(timeout_secs=default_secs, own_group=own_group)
        if rank in missing:
            return None
        error, secs = failure_of(barrier, timeout_secs=call_secs, tag="save")
        assert isinstance(error, BarrierTimeoutError)
        assert isinstance(error, TimeoutError)
        barrier.close()
        return error.verdict, secs, str(error)


@pytest.mark.parametrize(
    ("missing", "default_secs", "call_secs", "own_group"),
    [
        pytest.param([3], SHORT_SECS, None, False, id="default limit"),
        pytest.param([1, 3], LONG_SECS, SHORT_SECS, False, id="limit of the call"),
        pytest.param([1, 2, 3], SHORT_SECS, None, True, id="own group"),
        pytest.param([0], SHORT_SECS, None, False, id="rank 0 missing"),
    ],
)
def test_a_missing_rank_costs_no_more_than_the_limit(
    ranks: RankProcesses,
    rendezvous: Path,
    missing: list[int],
    default_secs: float,
    call_secs: float | None,
    own_group: bool,
) -> None:
    outcomes = ranks.run_all(misses, rendezvous, missing, default_secs, call_secs, own_group)
    for rank in set(EVERYBODY) - set(missing):
        outcome = outcomes[rank]
        assert outcome is not None
        verdict, secs, message = outcome
        assert SHORT_SECS * 0.9 <= secs < SHORT_SECS + 4
        assert (verdict.kind, verdict.round, verdict.tag) == ("timeout", 1, "save")
        assert verdict.rank == rank
        assert verdict.world_size == WORLD_SIZE
        # Only rank 0 of a process group hears who came; the others say whom to ask.
        assert [status.rank for status in verdict.missing] == (missing if rank == 0 else [])
        if rank != 0:
            assert "rank 0 can tell which ranks are missing" in message


def fails_twice(rank: int, rendezvous: Path) -> tuple[float, bool] | None:
    with gloo_group(rank, rendezvous):
        barrier = DistBarrier(timeout_secs=SHORT_SECS)
        if rank == 3:
            return None
        first, _ = failure_of(barrier)
        again, secs = failure_of(barrier)
        assert barrier.round == 1
        return secs, first.verdict == again.verdict


def test_a_failed_barrier_stays_broken(ranks: RankProcesses, rendezvous: Path) -> None:
    for outcome in ranks.run_all(fails_twice, rendezvous)[:3]:
        assert outcome is not None
        secs, same = outcome
        assert secs < SHORT_SECS / 2
        assert same


def hang_up() -> None:
    """Cut this process's network connections, as its death would."""
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getpeername():
                connection.shutdown(socket.SHUT_RDWR)


def torch_byte() -> Any:
    import torch

    return torch.zeros(1, dtype=torch.uint8)


def is_cut_off(rank: int, rendezvous: Path, first_rank_knows: bool) -> tuple[Verdict, float] | None:
    with gloo_group(rank, rendezvous):
        barrier = DistBarrier(LONG_SECS)
        barrier.execute_barrier()
        if rank == 3:
            hang_up()
            return None
        if rank == 0 and first_rank_knows:
            with pytest.raises(RuntimeError):
                barrier._group.recv([torch_byte()], 3, 1).wait(timedelta(seconds=LONG_SECS))
        # The first rank hears of it, and would not tell the others before it leaves.
        error, secs = failure_of(barrier, timeout_secs=LONG_SECS if rank == 0 else SHORT_SECS)
        assert isinstance(error, BarrierConnectionError if rank == 0 else BarrierTimeoutError)
        return error.verdict, secs


@pytest.mark.parametrize("first_rank_knows", [False, True])
def test_a_lost_connection_is_not_waited_for(
    ranks: RankProcesses, rendezvous: Path, first_rank_knows: bool
) -> None:
    outcome = ranks.run_all(is_cut_off, rendezvous, first_rank_knows)[0]
    assert outcome is not None
    verdict, secs = outcome
    assert secs < LONG_SECS / 2
    assert verdict.kind == "store"
    assert [status.rank for status in verdict.missing] == [3]
    assert "the process group failed" in verdict.reason


def beside_collectives(rank: int, rendezvous: Path) -> list[tuple[float, float]]:
    """Go through rounds in one thread while another adds numbers up over the default group."""
    import torch
    import torch.distributed as dist

    visits: list[tuple[float, float]] = []
    with gloo_group(rank, rendezvous):
        barrier = DistBarrier(timeout_secs=30, own_group=True)
        thread = threading.Thread(target=lambda: visits.extend(visit(barrier, rounds=20)))
        thread.start()
        for number in range(300):
            total = torch.tensor([rank, number])
            dist.all_reduce(total)
            assert total.tolist() == [sum(EVERYBODY), WORLD_SIZE * number]
        thread.join(30)
        assert not thread.is_alive()
        barrier.close()
    return visits


def test_an_own_group_disturbs_no_collective_of_another_thread(
    ranks: RankProcesses, rendezvous: Path
) -> None:
    rounds = ranks.run_all(beside_collectives, rendezvous)
    assert [len(visits) for visits in rounds] == [20] * WORLD_SIZE
    assert_held(rounds)


def in_subgroup(rank: int, rendezvous: Path, members: list[int]) -> Any:
    import torch.distributed as dist

    with gloo_group(rank, rendezvous):
        group = dist.new_group(members)
        if rank not in members:
            with pytest.raises(BarrierError) as caught:
                DistBarrier(process_group=group)
            assert isinstance(caught.value, AssertionError)
            return str(caught.value)
        with DistBarrier(process_group=group) as barrier:
            assert barrier.barrier_prefix == "ranks 1, 3"
            return visit(barrier, rounds=10)


def test_a_given_group_is_the_one_that_meets(ranks: RankProcesses, rendezvous: Path) -> None:
    outcomes = ranks.run_all(in_subgroup, rendezvous, [1, 3])
    assert_held([outcomes[1], outcomes[3]])
    for outsider in (0, 2):
        assert f"rank {outsider} is not in the given process_group" in outcomes[outsider]


def misses_in_subgroup(rank: int, rendezvous: Path, members: list[int]) -> Verdict | None:
    import torch.distributed as dist

    with gloo_group(rank, rendezvous):
        group = dist.new_group(members)
        if rank not in members[:-1]:
            return None
        error, _ = failure_of(DistBarrier(SHORT_SECS, process_group=group))
        return error.verdict


def test_ranks_of_a_given_group_are_named_as_the_job_knows_them(
    ranks: RankProcesses, rendezvous: Path
) -> None:
    outcomes = ranks.run_all(misses_in_subgroup, rendezvous, [1, 2, 3])
    assert outcomes[1] is not None
    assert outcomes[2] is not None
    assert [status.rank for status in outcomes[1].missing] == [3]
    assert [verdict.rank for verdict in outcomes[1:3] if verdict] == [1, 2]
    assert "rank 1 can tell" in outcomes[2].reason


def refuses(rank: int, rendezvous: Path) -> list[str]:
    messages = []
    with gloo_group(rank, rendezvous):
        barrier = DistBarrier(timeout_secs=30)
        with pytest.raises(BarrierUsageError) as caught:
            barrier.abort("disk full")
        messages.append(str(caught.value))
        with pytest.raises(BarrierUsageError) as caught, barrier.phase("save"):
            pytest.fail("the phase must not begin")
        messages.append(str(caught.value))
        with pytest.raises(BarrierUsageError) as caught:
            barrier.report_progress("shard 1/2")
        messages.append(str(caught.value))
        barrier.execute_barrier()  # a refusal breaks nothing
        barrier.close()
        barrier.close()
        with pytest.raises(BarrierUsageError) as caught:
            barrier.execute_barrier()
        messages.append(str(caught.value))
    return messages


def test_what_is_not_declared_is_refused(ranks: RankProcesses, rendezvous: Path) -> None:
    for abort, phase, progress, closed in ranks.run_all(refuses, rendezvous):
        assert "does not declare the capability 'abort'" in abort
        assert "does not declare the capability 'abort'" in phase
        assert "does not declare the capability 'progress'" in progress
        assert "closed" in closed


def without_group(rank: int) -> str:
    with pytest.raises(AssertionError) as caught:
        create_barrier("dist_barrier")
    assert isinstance(caught.value, BarrierError)
    return str(caught.value)


def test_without_a_process_group_it_says_what_to_call(ranks: RankProcesses) -> None:
    for message in ranks.run_all(without_group):
        assert "requires an initialized process group" in message
        assert "init_process_group()" in message


def waits_for_work(rank: int, rendezvous: Path, missing: int | None) -> str:
    """Use what stands in for ``dist.barrier(timeout=)`` where torch has none."""
    import torch.distributed as dist

    with gloo_group(rank, rendezvous):
        group = dist.new_group()
        if rank == missing:
            return "did not come"
        try:
            _barrier_with_wait(dist, group, timedelta(seconds=SHORT_SECS), {})
        except RuntimeError as error:
            return str(error)
        return "passed"


def test_the_call_for_older_torch_passes(ranks: RankProcesses, rendezvous: Path) -> None:
    assert ranks.run_all(waits_for_work, rendezvous, None) == ["passed"] * WORLD_SIZE


def test_the_call_for_older_torch_keeps_the_limit(ranks: RankProcesses, rendezvous: Path) -> None:
    started = time.monotonic()
    outcomes = ranks.run_all(waits_for_work, rendezvous, 3)
    assert time.monotonic() - started < 10
    assert "timed out" in outcomes[0].lower()
    assert "passed" not in outcomes
