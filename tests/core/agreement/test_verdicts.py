"""Rounds that fail: one verdict for all ranks."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from barrier_core import BarrierTimeoutError
from barrier_core.agreement.round_log import parse
from barrier_core.agreement.store import BRIEF_SECS, StoreAccess, StoreClient
from tests.support.injected_stores import POLLING
from tests.support.local_ranks import LocalJob, Ranks, arriving

SHORT_SECS = 0.6  # a hard limit that is meant to pass

EITHER_STORE = pytest.mark.parametrize(
    "store", [pytest.param(None, id="blocks"), pytest.param(POLLING, id="is asked")]
)


@EITHER_STORE
def test_a_timeout_is_one_verdict_for_all_the_late_rank_included(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(3, store, timeout_secs=SHORT_SECS)

    verdict = arriving(*barriers[:2]).verdict()

    assert (verdict.kind, verdict.round) == ("timeout", 1)
    assert [status.rank for status in verdict.missing] == [2]
    assert verdict.missing[0].pid == os.getpid()
    with pytest.raises(BarrierTimeoutError) as late:
        barriers[2].execute_barrier()
    assert late.value.verdict == verdict


def test_a_limit_shorter_than_a_brief_wait_does_not_begin_with_one(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(self: StoreClient) -> bool:
        raise AssertionError("this wait is longer than the limit")

    barrier = job.barriers(2)[0]
    monkeypatch.setattr(StoreClient, "wait_briefly", too_long)

    with pytest.raises(BarrierTimeoutError):
        barrier.execute_barrier(timeout_secs=0.9 * BRIEF_SECS)


def test_a_broken_barrier_raises_its_verdict_again_and_a_retry_never_counts(job: LocalJob) -> None:
    barriers = job.barriers(2, timeout_secs=SHORT_SECS)
    verdict = arriving(barriers[0]).verdict()
    log = job.log(1)

    for barrier in (*barriers, *barriers):
        with pytest.raises(BarrierTimeoutError) as again:
            barrier.execute_barrier()
        assert again.value.verdict == verdict

    assert parse(job.log(1)) == parse(log)
    assert [barrier.round for barrier in barriers] == [1, 1]
    assert not job.log(2)


def test_a_wall_clock_that_jumps_moves_no_deadline(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle([-86_400.0, 0.0, 86_400.0])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    barrier = job.barrier(0, 2, timeout_secs=SHORT_SECS)
    started = time.monotonic()

    verdict = arriving(barrier).verdict()

    assert verdict.kind == "timeout"
    assert SHORT_SECS <= time.monotonic() - started < 10


def test_ranks_with_different_tags_are_told_so(job: LocalJob) -> None:
    barriers = job.barriers(3)
    tags = ["save step=1", "save step=2\n", "save step=1"]

    verdict = Ranks(
        *[lambda b=b, t=t: b.execute_barrier(tag=t) for b, t in zip(barriers, tags, strict=True)]
    ).verdict()

    assert verdict.kind == "mismatch"
    assert verdict.tags == {"save step=1": "0, 2", "save step=2\n": "1"}


def test_a_rank_that_has_closed_its_barrier_is_reported(job: LocalJob) -> None:
    barriers = job.barriers(3)
    ranks = arriving(*barriers[:2])

    barriers[2].close()

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.reason[-15:]) == ("left", "rank 2 has left")
    assert [(status.rank, status.state, status.detail) for status in verdict.missing] == [
        (2, "left", "has closed its barrier")
    ]
