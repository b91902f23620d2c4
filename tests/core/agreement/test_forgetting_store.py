"""A store that forgets is a lost store: no rank passes, and none that had arrived is blamed."""

from __future__ import annotations

import pytest

from barrier_core import BarrierConnectionError, BarrierFailedError, BrokenBarrierError
from barrier_core.agreement.store import StoreAccess
from barrier_core.backends.local import STORE
from tests.support.injected_stores import POLLING, InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving, wait_until

EITHER_STORE = pytest.mark.parametrize("store", [None, POLLING], ids=["blocking", "polling"])


def forget(job: LocalJob, *keys: str) -> None:
    """Have the store forget some keys of a job; all of them if none is named."""
    with STORE.lock:
        for key in keys or job.stored:
            STORE.values.pop(key, None)


def check_lost(error: BaseException | None) -> None:
    assert isinstance(error, BarrierConnectionError), repr(error)
    assert "it has forgotten the barrier" in error.verdict.reason
    assert error.verdict.missing == ()


@EITHER_STORE
def test_a_store_that_forgets_while_ranks_wait_is_lost_on_all_of_them(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(3, store)
    arriving(*barriers).pass_()
    waiting = arriving(*barriers[:2])
    job.wait_until_arrived(0, 1, number=2)

    forget(job)

    for error in (*waiting.outcomes(), *arriving(barriers[2]).outcomes()):
        check_lost(error)
    assert [barrier.failed is not None for barrier in barriers] == [True] * 3


@EITHER_STORE
def test_no_round_passes_in_a_store_that_was_emptied_between_two(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(2, store)
    arriving(*barriers).pass_()

    forget(job)

    for error in arriving(*barriers).outcomes():
        check_lost(error)


@EITHER_STORE
def test_a_log_that_is_evicted_blames_nobody_who_had_arrived(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(3, store, timeout_secs=1.0)
    waiting = arriving(*barriers[:2])
    job.wait_until_arrived(0, 1)

    forget(job, job.keys.round(1, "").log)

    for error in waiting.outcomes():
        assert isinstance(error, BarrierFailedError)
        assert {status.rank for status in error.verdict.missing} <= {2}
        assert error.verdict.kind in ("store", "timeout")
    assert any(isinstance(error, BarrierConnectionError) for error in waiting.outcomes())


class ForgetsAtCall(InjectedAccess):
    """A store that forgets a job before a certain call of this rank."""

    def __init__(self, job: LocalJob, call: int) -> None:
        super().__init__()
        self._job = job
        self._call: int = call
        self.calls = 0

    def before(self, call: StoreCall) -> None:
        self.calls += 1
        if self.calls == self._call:
            forget(self._job)


def test_whenever_it_forgets_no_rank_passes_alone_or_is_blamed(job: LocalJob) -> None:
    joined = ForgetsAtCall(LocalJob("counts"), 0)
    LocalJob("counts").barrier(0, 2, joined).close()

    calls = range(joined.calls, joined.calls + 40)
    attempts = [LocalJob(f"{job.prefix}at{call}") for call in calls]
    early, late = [], []
    for call, attempt in zip(calls, attempts, strict=True):
        early.append(attempt.barrier(0, 2, ForgetsAtCall(attempt, call), timeout_secs=0.6))
        late.append(attempt.barrier(1, 2))
    outcomes = zip(arriving(*early).outcomes(), arriving(*late).outcomes(), strict=True)
    for attempt in attempts:
        attempt.close()

    for call, errors in zip(calls, outcomes, strict=True):
        assert all(isinstance(error, BarrierFailedError) for error in errors), (call, errors)
        verdicts = [error.verdict for error in errors if isinstance(error, BarrierFailedError)]
        told = [verdict for verdict in verdicts if verdict.kind != "store"]
        assert all([each.rank for each in verdict.missing] == [1] for verdict in told), told
        assert told[1:] == told[:-1]


def test_a_rank_that_has_lost_the_store_tells_the_others_once_it_is_back(job: LocalJob) -> None:
    store = InjectedAccess()
    barriers = [job.barrier(0, 3, store), *[job.barrier(rank, 3) for rank in (1, 2)]]
    arriving(*barriers).pass_()
    waiting = arriving(barriers[1])
    job.wait_until_arrived(1, number=2)
    store.is_lost = True
    with pytest.raises(BarrierConnectionError, match="it burnt down"):
        barriers[0].execute_barrier()

    store.is_lost = False

    verdict = waiting.verdict()
    assert (verdict.kind, verdict.rank) == ("abort", 0)
    assert "it has given up: the injected store failed: it burnt down" in verdict.reason
    with pytest.raises(BrokenBarrierError, match="it has given up"):
        barriers[2].execute_barrier()


def test_a_rank_that_has_lost_the_store_tells_the_others_when_it_closes(job: LocalJob) -> None:
    store = InjectedAccess()
    barriers = [job.barrier(0, 2, store), job.barrier(1, 2)]
    arriving(*barriers).pass_()
    waiting = arriving(barriers[1])
    store.is_lost = True
    with pytest.raises(BarrierConnectionError):
        barriers[0].execute_barrier()
    store.is_lost = False

    barriers[0].close()

    assert waiting.verdict().kind == "abort"


class CountsConnects(InjectedAccess):
    connects = 0

    def before(self, call: StoreCall) -> None:
        self.connects += call.name == "connect"


def test_a_store_that_has_ended_is_not_asked_for_ever(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("barrier_core.agreement.watcher.ASK_SECS", 0.001)
    monkeypatch.setattr("barrier_core.agreement.watcher._LONGEST_RETRY_SECS", 0.002)
    store = CountsConnects()
    barriers = [job.barrier(0, 2, store), job.barrier(1, 2)]
    Ranks(lambda: barriers[0].report_progress("shard 1")).pass_()
    store.is_lost = True
    with pytest.raises(BarrierConnectionError):
        barriers[0].execute_barrier()

    wait_until(lambda: store.connects >= 25)
    before = store.connects
    barriers[1].close()

    assert store.connects <= before + 2
