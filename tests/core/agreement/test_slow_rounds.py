"""Slow rounds: progress, deadlines that it extends, and what observers hear meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from barrier_core import Barrier, BarrierTimeoutError, RankStatus, hookimpl
from tests.support.injected_stores import InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, arriving, observed_by, wait_until


def test_a_verdict_tells_the_progress_of_the_late_rank(job: LocalJob) -> None:
    barriers = job.barriers(2, timeout_secs=1.0)
    barriers[1].report_progress("shard 12/40")

    (missing,) = arriving(barriers[0]).verdict().missing

    assert (missing.rank, missing.progress) == (1, "shard 12/40")
    assert missing.progress_age_secs is not None
    assert 0.5 < missing.progress_age_secs < 10


def test_progress_extends_the_deadline_for_as_long_as_it_is_reported(job: LocalJob) -> None:
    barriers = job.barriers(2, timeout_secs=2.5, progress_extends_deadline=True)
    started = time.monotonic()
    ranks = arriving(barriers[0])

    for shard in range(15):
        barriers[1].report_progress(f"shard {shard}")
        time.sleep(0.2)
    last_report = time.monotonic()
    assert last_report - started > 2.9  # the deadline has passed

    (missing,) = ranks.verdict().missing
    assert missing.progress == "shard 14"
    assert 1.0 < time.monotonic() - last_report < 10


def test_a_rank_that_arrives_within_the_extended_deadline_passes(job: LocalJob) -> None:
    barriers = job.barriers(2, timeout_secs=2.5, progress_extends_deadline=True)
    ranks = arriving(barriers[0])

    for shard in range(15):
        barriers[1].report_progress(f"shard {shard}")
        time.sleep(0.2)

    arriving(barriers[1]).pass_()
    ranks.pass_()


def test_a_deadline_is_judged_by_what_is_known_when_it_comes(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("barrier_core.agreement.watcher.LOOK_SECS", 60.0)
    store = InjectedAccess()
    options: dict[str, Any] = {"timeout_secs": 1.5, "progress_extends_deadline": True}
    barriers = [job.barrier(0, 2, store, **options), job.barrier(1, 2, **options)]
    looked = threading.Event()

    def note_look(call: StoreCall) -> None:
        if job.keys.heartbeat(1) in call.keys:
            looked.set()

    store.after = note_look  # type: ignore[method-assign]
    ranks = arriving(barriers[0])
    assert looked.wait(20)

    barriers[1].report_progress("after the look")

    (missing,) = ranks.verdict().missing
    assert missing.progress == "after the look"
    assert missing.progress_age_secs is not None
    assert missing.progress_age_secs >= 1.5  # not from the start of the round: from the report


class Listener:
    """Keeps what it hears of slow rounds: of each rank, who is missing and who should speak."""

    def __init__(self) -> None:
        self.heard: dict[int, tuple[list[int], bool, float]] = {}

    @hookimpl
    def barrier_waiting(
        self, barrier: Barrier, waited_secs: float, missing: tuple[RankStatus, ...], reporter: bool
    ) -> None:
        ranks = [status.rank for status in missing]
        self.heard.setdefault(barrier.rank_info.global_rank, (ranks, reporter, waited_secs))


def test_after_the_soft_limit_observers_hear_who_is_missing(job: LocalJob) -> None:
    barriers = job.barriers(4, warn_after_secs=0.5)
    listener = Listener()
    with observed_by(listener):
        ranks = arriving(*barriers[:3])
        wait_until(lambda: len(listener.heard) == 3)
        arriving(barriers[3]).pass_()
        ranks.pass_()

    assert [missing for missing, _, _ in listener.heard.values()] == [[3]] * 3
    assert sorted(reporter for _, reporter, _ in listener.heard.values()) == [False, False, True]
    assert all(0.5 <= waited < 5 for _, _, waited in listener.heard.values())


def test_observers_hear_of_a_round_that_goes_on_waiting_at_widening_intervals(
    job: LocalJob,
) -> None:
    barrier = job.barrier(0, 2, warn_after_secs=0.2, timeout_secs=2.0)
    heard: list[float] = []

    class Clock:
        @hookimpl
        def barrier_waiting(self, waited_secs: float) -> None:
            heard.append(waited_secs)

    with observed_by(Clock()):
        assert arriving(barrier).verdict().kind == "timeout"

    assert 2 <= len(heard) <= 4
    assert all(waited >= 0.2 * 2**number for number, waited in enumerate(heard))


def test_without_a_soft_limit_observers_hear_nothing(job: LocalJob) -> None:
    barriers = job.barriers(2, warn_after_secs=None, timeout_secs=1.0)
    listener = Listener()
    with observed_by(listener), suppress(BarrierTimeoutError):
        barriers[0].execute_barrier()

    assert listener.heard == {}
