"""From ranks that are processes, over a store, to the report: who was late, and who died."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from barrier_core import BrokenBarrierError, create_barrier
from barrier_core.hooks import plugin_manager
from barrier_core.observers.trace_observer import TraceObserver
from barrier_core.testing.rank_processes import state, wait_until
from barrier_report.make import make_report

pytest.importorskip("torch", reason="the store is torch's")

from tests.support.ports import free_port
from tests.support.torch_ranks import WORLD_SIZE, shared_ranks

LATE = 2
KILLED = 3
ROUNDS = 10


def observe(rank: int, folder: Path, port: int) -> int:
    state["observer"] = TraceObserver(folder)
    plugin_manager.register(state["observer"])
    state["barrier"] = create_barrier(
        "tcp_store",
        global_rank=rank,
        global_world_size=WORLD_SIZE,
        master_address="127.0.0.1",
        tcpstore_port=port,
        timeout_secs=50,
    )
    return os.getpid()


def go_through_rounds(rank: int, marks: Path) -> None:
    """Go through rounds, to which the late rank comes when it has seen the others on their way."""
    for step in range(ROUNDS):
        others = [marks / f"{step} {other}" for other in range(WORLD_SIZE) if other != LATE]
        if rank == LATE:
            wait_until(
                lambda: all(mark.exists() for mark in others),  # noqa: B023 - called here
                "the others are there",
            )
            time.sleep(0.05)  # the subject: it is late
        (marks / f"{step} {rank}").touch()
        state["barrier"].execute_barrier(tag=f"save step={step}")


def go_through_the_last(rank: int) -> None:
    state["barrier"].execute_barrier(tag="done")


def stop_observing(rank: int) -> None:
    state.pop("barrier").close()
    observer = state.pop("observer")
    plugin_manager.unregister(observer)
    observer.close()


def test_the_report_names_the_rank_that_was_late_and_the_one_that_died(tmp_path: Path) -> None:
    ranks = shared_ranks()
    traces, marks = tmp_path / "traces", tmp_path / "marks"
    marks.mkdir()
    pids = ranks.run_all(observe, traces, free_port())
    ranks.run_all(go_through_rounds, marks)
    survivors = [rank for rank in range(WORLD_SIZE) if rank != KILLED]
    calls = ranks.start_all(go_through_the_last, ranks=survivors)
    ranks.kill(KILLED)
    for call in calls:
        with pytest.raises(BrokenBarrierError):
            call.result()
    ranks.run_all(stop_observing, ranks=survivors)

    report = make_report(traces).report

    assert report.ranks[0].rank == LATE
    assert {rank.rank: rank.pid for rank in report.ranks} == dict(enumerate(pids))
    assert (report.tags[0].tag, report.tags[0].worst_rank) == ("save step=#", LATE)
    (failure,) = report.failures
    assert (failure.tag, failure.kind, failure.missing) == ("done", "dead", str(KILLED))
    assert report.detail[-1].missing == [KILLED]
    assert (report.rounds, report.failed, report.notes) == (ROUNDS + 1, 1, [])
