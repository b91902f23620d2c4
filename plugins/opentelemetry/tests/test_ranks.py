"""Real ranks with the plugin installed: each reports its own rounds, to what it has set up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from barrier_file import FileBarrier
from opentelemetry import metrics, trace

from barrier_core import BarrierFailedError, RankStatus, create_barrier, hookimpl, register_barrier
from barrier_core.hooks import plugin_manager
from barrier_core.testing.rank_processes import RankProcesses, state, wait_until
from barrier_opentelemetry import OpenTelemetryObserver
from plugins.opentelemetry.tests.memory import Memory, told

DEAD = 2


@pytest.fixture
def ranks() -> Iterator[RankProcesses]:
    with RankProcesses(3) as ranks:
        yield ranks


class Sign:
    """An observer that leaves a file when all ranks but one have arrived."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @hookimpl
    def barrier_waiting(self, missing: tuple[RankStatus, ...]) -> None:
        if [status.rank for status in missing] == [DEAD]:
            self._path.touch()


def join(rank: int, directory: Path) -> None:
    register_barrier(FileBarrier)
    plugin_manager.register(Sign(directory / "only one is missing"))
    state["barrier"] = create_barrier(
        "file",
        directory=str(directory / "store"),
        global_rank=rank,
        global_world_size=3,
        barrier_prefix="ckpt",
        warn_after_secs=0.3,
    )


def set_up_telemetry(rank: int) -> None:
    memory = state["memory"] = Memory()
    trace.set_tracer_provider(memory.tracer_provider)
    metrics.set_meter_provider(memory.meter_provider)


def run_round(rank: int, tag: str) -> str:
    """Run a round inside a span of the training's own; return its verdict's kind."""
    with trace.get_tracer("training").start_as_current_span(f"step of rank {rank}"):
        try:
            state["barrier"].execute_barrier(60, tag)
        except BarrierFailedError as error:
            return error.verdict.kind
    return ""


def reported(rank: int) -> dict[str, Any]:
    """Everything the installed observer has told this rank's providers."""
    memory: Memory = state["memory"]
    state["barrier"].close()
    return {
        "spans": [
            (span.name, told(span), span.status.status_code.name, span.parent is not None)
            for span in memory.spans()
        ],
        "durations": {
            str((point.attributes or {})["barrier.outcome"]): point.count
            for point in memory.durations()
        },
        "failures": memory.failures(),
    }


def test_every_rank_reports_the_round_in_which_one_was_killed(
    ranks: RankProcesses, tmp_path: Path
) -> None:
    ranks.run_all(join, tmp_path)
    ranks.run_all(run_round, "before anything is set up")
    ranks.run_all(set_up_telemetry)
    ranks.run_all(run_round, "save step=1")

    calls = ranks.start_all(run_round, "save step=2", ranks=[0, 1])
    wait_until((tmp_path / "only one is missing").exists, "the others wait for one rank only")
    ranks.kill(DEAD)
    assert [call.result() for call in calls] == ["dead", "dead"]

    about = {"barrier.type": "file", "barrier.prefix": "ckpt"}
    for rank in (0, 1):
        told = ranks.run(rank, reported)
        mine = {**about, "barrier.rank": rank, "barrier.world_size": 3}
        passed = {"barrier.round": 2, "barrier.tag": "save step=1", "barrier.outcome": "passed"}
        failed = {"barrier.round": 3, "barrier.tag": "save step=2", "barrier.outcome": "failed"}
        dead = {"error.type": "dead"}
        missing = {"barrier.missing.ranks": str(DEAD), "barrier.missing.count": 1}
        assert told["spans"] == [
            ("barrier save step=#", {**mine, **passed}, "UNSET", True),
            ("barrier save step=#", {**mine, **failed, **dead, **missing}, "ERROR", True),
        ]
        assert told["durations"] == {"passed": 1, "failed": 1}
        in_metrics = {**about, **dead, "barrier.tag_pattern": "save step=#"}
        assert told["failures"] == [(in_metrics, 1)]


# --- at rest --------------------------------------------------------------------------------------


def are_rounds_observed(rank: int) -> bool:
    state.setdefault("observer", OpenTelemetryObserver())
    if not plugin_manager.is_registered(state["observer"]):
        plugin_manager.register(state["observer"])
    return plugin_manager.rounds_are_observed


def set_up(rank: int, what: str) -> None:
    memory = Memory()
    if what == "nothing":
        trace.set_tracer_provider(trace.NoOpTracerProvider())
        metrics.set_meter_provider(metrics.NoOpMeterProvider())
    elif what == "traces":
        trace.set_tracer_provider(memory.tracer_provider)
    else:
        metrics.set_meter_provider(memory.meter_provider)


def has_own_provider_and_is_observed(rank: int) -> bool:
    plugin_manager.unregister(state["observer"])
    plugin_manager.register(Memory().observer)
    return plugin_manager.rounds_are_observed


def test_rounds_are_observed_only_once_something_listens() -> None:
    with RankProcesses(3) as ranks:
        assert ranks.run_all(are_rounds_observed) == [False] * 3
        for rank, what in enumerate(("nothing", "traces", "metrics")):
            ranks.run(rank, set_up, what)
        assert ranks.run_all(are_rounds_observed) == [False, True, True]
        assert ranks.run(0, has_own_provider_and_is_observed)
