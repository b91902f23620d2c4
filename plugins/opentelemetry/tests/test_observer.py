"""What a round becomes: a span, a measurement, and a count if it failed."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from contextlib import suppress

import pytest
from opentelemetry.trace import StatusCode

from barrier_core import (
    Barrier,
    BarrierFailedError,
    BarrierUsageError,
    hookimpl,
)
from barrier_core.backends.local import LocalBarrier
from barrier_core.hooks import plugin_manager
from barrier_core.testing.rank_threads import run_in_threads
from barrier_opentelemetry.observer import BUCKETS, MOST_PATTERNS
from plugins.opentelemetry.tests.memory import Memory, told

_numbers = itertools.count()


class OneRank(Barrier):
    """A barrier that waits for nobody, and may raise instead."""

    barrier_type = "one_rank"

    def __init__(self, *errors: BaseException | None) -> None:
        super().__init__(0, 1)
        self._errors = iter(errors)

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        error = next(self._errors, None)
        if error is not None:
            raise error


def barriers(count: int, warn_after_secs: float | None = None) -> list[LocalBarrier]:
    """A barrier between threads, for each rank."""
    prefix = f"otel-{next(_numbers)}"
    return [
        LocalBarrier(rank, count, prefix, warn_after_secs=warn_after_secs) for rank in range(count)
    ]


def run_round(tag: str, timeout_secs: float, *ranks: Barrier) -> None:
    """Run a round on threads, and swallow its failure."""

    def run(barrier: Barrier) -> None:
        with suppress(BarrierFailedError):
            barrier.execute_barrier(timeout_secs, tag)

    run_in_threads(run, ranks)


def test_a_round_that_passed_is_a_span_on_every_rank(observed: Memory) -> None:
    ranks = barriers(2)
    before = time.time_ns()

    run_round("save step=1200", 60, *ranks)

    for rank, span in enumerate(observed.spans()):
        assert span.name == "barrier save step=#"
        assert told(span) == {
            "barrier.type": "local",
            "barrier.prefix": ranks[0].barrier_prefix,
            "barrier.round": 1,
            "barrier.tag": "save step=1200",
            "barrier.rank": rank,
            "barrier.world_size": 2,
            "barrier.outcome": "passed",
        }
        assert span.status.status_code is StatusCode.UNSET
        assert before <= (span.start_time or 0) <= (span.end_time or 0)
    assert len(observed.spans()) == 2


def test_a_span_is_a_child_of_the_span_in_which_the_rank_called(observed: Memory) -> None:
    tracer = observed.tracer_provider.get_tracer("training")

    with tracer.start_as_current_span("save") as save:
        OneRank().execute_barrier()

    span = observed.span()
    assert span.name == "barrier"
    assert span.parent == save.get_span_context()


class Heard:
    """An observer that counts who has been told that it waits."""

    def __init__(self, wanted: int) -> None:
        self._barriers: set[Barrier] = set()
        self._wanted = wanted
        self.all = threading.Event()

    @hookimpl(trylast=True)
    def barrier_waiting(self, barrier: Barrier) -> None:
        self._barriers.add(barrier)
        if len(self._barriers) == self._wanted:
            self.all.set()


def test_a_round_that_failed_says_who_is_missing_at_the_end_and_meanwhile(
    observed: Memory,
) -> None:
    first, second, third, _ = barriers(4, warn_after_secs=0.3)
    heard = Heard(2)
    plugin_manager.register(heard)

    waiting = threading.Thread(target=run_round, args=("save", 60, first, second))
    waiting.start()
    assert heard.all.wait(60)
    third.abort("disk full")
    waiting.join()
    plugin_manager.unregister(heard)

    spans = observed.spans()
    assert len(spans) == 2
    missing = {"barrier.missing.ranks": "2-3", "barrier.missing.count": 2}
    outcome = {"barrier.outcome": "failed", "error.type": "abort"}
    for span in spans:
        assert {**outcome, **missing}.items() <= told(span).items()
        assert span.status.status_code is StatusCode.ERROR
        description = span.status.description or ""
        assert "round 1 was aborted by rank 2: disk full" in description
        assert "2 of 4 ranks had not arrived: rank 2 (" in description
        assert {event.name for event in span.events} == {"barrier.waiting"}
        for event in span.events:
            assert (event.attributes or {})["barrier.missing.count"] in (2, 3)
            assert (span.start_time or 0) < event.timestamp < (span.end_time or 0)


def test_waits_are_measured_in_seconds_and_failures_counted_by_reason(observed: Memory) -> None:
    first, second = barriers(2)
    about = {"barrier.type": "local", "barrier.prefix": first.barrier_prefix}

    for step in range(3):
        run_round(f"save step={step}", 60, first, second)
    run_round("save step=3", 0.3, first)

    in_metrics = {**about, "barrier.tag_pattern": "save step=#"}
    passed, failed = observed.durations()
    assert passed.attributes == {**in_metrics, "barrier.outcome": "passed"}
    assert passed.count == 6
    timeout = {"error.type": "timeout"}
    assert failed.attributes == {**in_metrics, **timeout, "barrier.outcome": "failed"}
    assert 0.3 <= failed.sum < 60
    assert tuple(passed.explicit_bounds) == BUCKETS
    assert observed.failures() == [({**in_metrics, **timeout}, 1)]
    assert observed.units() == {"barrier.wait.duration": "s", "barrier.failures": "{round}"}


def test_an_abort_is_counted_where_it_is_heard(observed: Memory) -> None:
    first, second = barriers(2)
    second.abort("disk full")

    run_round("", 60, first)

    ((attributes, count),) = observed.failures()
    assert (attributes["error.type"], count) == ("abort", 1)
    assert "disk full" in (observed.span().status.description or "")


def test_an_error_without_a_verdict_is_counted_by_its_name(observed: Memory) -> None:
    with pytest.raises(BarrierUsageError):
        OneRank(BarrierUsageError("no group")).execute_barrier()

    about = {"barrier.type": "one_rank", "error.type": "BarrierUsageError"}
    assert observed.failures() == [({**about, "barrier.tag_pattern": ""}, 1)]
    assert about.items() <= told(observed.span()).items()
    assert observed.span().status.description == "no group"


@pytest.mark.parametrize(
    ("tag", "pattern"),
    [
        ("", ""),
        ("setup-done", "setup-done"),
        ("epoch 3, step 0012", "epoch #, step #"),
        ("lr=0.05 v1.2.3.", "lr=# v#."),
    ],
)
def test_numbers_make_no_new_series(observed: Memory, tag: str, pattern: str) -> None:
    OneRank().execute_barrier(tag=tag)

    (point,) = observed.durations()
    assert (point.attributes or {})["barrier.tag_pattern"] == pattern


def test_tags_that_are_all_different_make_a_bounded_number_of_series(observed: Memory) -> None:
    barrier = OneRank()

    for number in range(MOST_PATTERNS + 20):
        barrier.execute_barrier(tag="x" * number)
    barrier.execute_barrier(tag="xx")

    counts = {
        str((point.attributes or {})["barrier.tag_pattern"]): point.count
        for point in observed.durations()
    }
    assert len(counts) == MOST_PATTERNS + 1
    assert (counts["(other)"], counts["xx"]) == (20, 2)


def test_a_call_that_is_interrupted_leaves_nothing_behind(observed: Memory) -> None:
    barrier = OneRank(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        barrier.execute_barrier(tag="interrupted")
    later = time.time_ns()

    barrier.execute_barrier(tag="again")

    span = observed.span()
    assert span.name == "barrier again"
    assert (span.start_time or 0) >= later


@pytest.mark.parametrize("closes", [True, False])
def test_a_barrier_is_not_kept_alive(observed: Memory, closes: bool) -> None:
    barrier = OneRank(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        barrier.execute_barrier()
    if closes:
        barrier.close()
    remembered = weakref.ref(barrier)

    del barrier
    gc.collect()

    assert remembered() is None
    assert observed.spans() == []


def test_an_observer_that_comes_in_the_middle_of_a_round_reports_from_the_next_one_on(
    memory: Memory,
) -> None:
    class Late(OneRank):
        def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
            if not plugin_manager.is_registered(memory.observer):
                plugin_manager.register(memory.observer)

    barrier = Late()
    for _ in range(2):
        barrier.execute_barrier()

    assert told(memory.span())["barrier.round"] == 2
