"""A store that is lost, in a round or outside it: which round cannot be, and who is told."""

from __future__ import annotations

import pytest

from barrier_core import BarrierConnectionError
from barrier_core.agreement.barrier import StoreBarrier
from tests.support.injected_stores import InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving


class LostWhenAsked(InjectedAccess):
    """A store that is lost as soon as something certain is asked of it, if anything is."""

    lost_at: StoreCall | None = None

    def before(self, call: StoreCall) -> None:
        if call == self.lost_at:
            self.is_lost = True


@pytest.fixture
def store() -> LostWhenAsked:
    return LostWhenAsked()


@pytest.fixture
def barriers(job: LocalJob, store: LostWhenAsked) -> list[StoreBarrier]:
    """Rank 0 is about to lose its store; a round has passed."""
    barriers = [job.barrier(0, 2, store), job.barrier(1, 2)]
    arriving(*barriers).pass_()
    return barriers


def check_lost_in(barrier: StoreBarrier, number: int, raised: BaseException) -> None:
    """Check that a barrier is broken in a round, with the verdict that was raised."""
    assert isinstance(raised, BarrierConnectionError)
    assert (raised.verdict.kind, raised.verdict.round) == ("store", number)
    assert "it burnt down" in raised.verdict.reason
    assert barrier.failed is not None
    assert barrier.failed.verdict == raised.verdict
    assert barrier.round == number
    with pytest.raises(BarrierConnectionError) as again:
        barrier.execute_barrier()
    assert again.value.verdict == raised.verdict


def test_a_round_in_which_the_store_is_lost_is_the_one_that_the_verdict_names(
    job: LocalJob, store: LostWhenAsked, barriers: list[StoreBarrier]
) -> None:
    recorder = job.listen(barriers[0])
    store.is_lost = True

    with pytest.raises(BarrierConnectionError) as raised:
        barriers[0].execute_barrier(tag="save")

    assert raised.value.verdict.tag == "save"
    check_lost_in(barriers[0], 2, raised.value)
    assert [(event.hook, event.round) for event in recorder.events] == [("enter", 2), ("failed", 2)]


def test_gathering_on_a_store_that_is_lost_before_the_round_breaks_that_round(
    job: LocalJob, store: LostWhenAsked, barriers: list[StoreBarrier]
) -> None:
    recorder = job.listen(barriers[0])
    store.is_lost = True

    with pytest.raises(BarrierConnectionError) as raised:
        barriers[0].gather("mine")

    check_lost_in(barriers[0], 2, raised.value)
    assert [(event.hook, event.round) for event in recorder.events] == [("failed", 2)]
    with pytest.raises(BarrierConnectionError) as again:
        barriers[0].gather("mine")
    assert again.value.verdict == raised.value.verdict


def test_gathering_on_a_store_that_is_lost_after_the_round_breaks_the_next(
    job: LocalJob, store: LostWhenAsked, barriers: list[StoreBarrier]
) -> None:
    recorder = job.listen(barriers[0])
    store.lost_at = StoreCall("read", (job.keys.gathered(2),))

    rank_0, rank_1 = Ranks(*[lambda b=b: b.gather("mine") for b in barriers]).outcomes()

    assert rank_1 is None, "round 2 has passed"
    assert rank_0 is not None
    check_lost_in(barriers[0], 3, rank_0)
    assert [(event.hook, event.round) for event in recorder.events] == [
        ("enter", 2),
        ("exit", 2),
        ("failed", 3),
    ]


def test_an_abort_between_rounds_on_a_lost_store_names_the_next_round(
    job: LocalJob, store: LostWhenAsked, barriers: list[StoreBarrier]
) -> None:
    recorder = job.listen(barriers[0])
    store.is_lost = True

    barriers[0].abort("no data")
    barriers[0].abort("said before")

    assert barriers[0].failed is not None
    check_lost_in(barriers[0], 2, barriers[0].failed)
    assert [(event.hook, event.round) for event in recorder.events] == [("failed", 2)]


def test_a_rank_that_has_lost_the_store_closes_without_it(
    store: LostWhenAsked, barriers: list[StoreBarrier]
) -> None:
    store.is_lost = True
    barriers[0].abort("no data")

    barriers[0].close()

    assert barriers[0].closed
