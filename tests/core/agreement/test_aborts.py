"""Aborts: by a waiting rank, between rounds, out of a phase, by an observer."""

from __future__ import annotations

from contextlib import suppress

import pytest

from barrier_core import Barrier, BrokenBarrierError, hookimpl
from barrier_core.agreement.store import StoreAccess
from barrier_core.testing import RankThreads
from tests.support.injected_stores import POLLING, InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving, observed_by, verdict_of

EITHER_STORE = pytest.mark.parametrize(
    "store", [pytest.param(None, id="blocks"), pytest.param(POLLING, id="is asked")]
)


@EITHER_STORE
def test_a_waiting_rank_is_aborted_by_another_of_its_threads(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(3, store)
    ranks = arriving(*barriers[:2])
    job.wait_until_arrived(0, 1)

    barriers[0].abort("disk full on /ckpt")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 0, "disk full on /ckpt")
    assert [status.rank for status in verdict.missing] == [2]
    with pytest.raises(BrokenBarrierError) as late:
        barriers[2].execute_barrier()
    assert late.value.verdict == verdict


def test_a_rank_that_has_not_arrived_aborts_the_round_that_others_wait_in(job: LocalJob) -> None:
    barriers = job.barriers(3)
    arriving(*barriers).pass_()
    ranks = arriving(*barriers[:2])
    job.wait_until_arrived(0, 1, number=2)

    barriers[2].abort("disk full")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.round, verdict.rank) == ("abort", 2, 2)
    with pytest.raises(BrokenBarrierError) as own:
        barriers[2].execute_barrier()
    assert own.value.verdict == verdict


def test_an_abort_before_anybody_has_arrived_breaks_the_next_round(job: LocalJob) -> None:
    barriers = job.barriers(2)

    barriers[1].abort("no data")
    barriers[1].abort("said before")

    assert arriving(*barriers).verdict().reason == "no data"


def test_two_ranks_that_abort_at_once_are_one_verdict(job: LocalJob) -> None:
    for _ in range(8):
        barriers = job.barriers(3)
        ranks = arriving(barriers[2])
        Ranks(*[lambda barrier=b: barrier.abort("me") for b in barriers[:2]]).pass_()

        verdict = ranks.verdict()
        assert arriving(*barriers).verdict() == verdict
        job.close()


def test_leaving_a_phase_by_an_exception_aborts_the_round(job: LocalJob) -> None:
    barriers = job.barriers(2)

    def save(rank: int) -> None:
        with barriers[rank].phase("save"):
            if rank == 1:
                raise OSError("disk full")

    healthy, failing = Ranks(lambda: save(0), lambda: save(1)).outcomes()

    assert isinstance(failing, OSError)
    verdict = verdict_of(healthy)
    assert (verdict.kind, verdict.rank) == ("abort", 1)
    assert verdict.reason == "OSError: disk full in phase 'save'"
    assert arriving(barriers[1]).verdict() == verdict


class AbortingAccess(InjectedAccess):
    """Aborts on the thread that is in the round, as a signal handler does."""

    barrier: Barrier | None = None

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def before(self, call: StoreCall) -> None:
        barrier, name = self.barrier, self._name
        if barrier is not None and call.name == name:
            self.barrier = None
            barrier.abort("preempted")


@pytest.mark.parametrize("call", ["append", "wait"])
def test_a_signal_handler_may_abort_in_the_midst_of_the_round_that_it_interrupts(
    job: LocalJob, call: str
) -> None:
    store = AbortingAccess(call)
    barriers = [job.barrier(0, 2, store), job.barrier(1, 2)]
    store.barrier = barriers[0]

    verdict = arriving(barriers[0]).verdict()

    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 0, "preempted")
    assert arriving(*barriers).verdict() == verdict


@pytest.mark.parametrize("when", ["barrier_enter", "barrier_exit"])
def test_an_observer_may_abort_on_the_very_thread_that_is_in_the_round(
    job: LocalJob, when: str
) -> None:
    barriers = job.barriers(2)

    class Strict:
        @hookimpl
        def barrier_enter(self, barrier: Barrier) -> None:
            self._look(barrier, "barrier_enter")

        @hookimpl
        def barrier_exit(self, barrier: Barrier) -> None:
            self._look(barrier, "barrier_exit")

        def _look(self, barrier: Barrier, hook: str) -> None:
            if barrier is barriers[1] and hook == when:
                barrier.abort("out of bounds")

    def two_rounds(barrier: Barrier) -> None:
        barrier.execute_barrier()
        barrier.execute_barrier()

    with observed_by(Strict()):
        verdict = Ranks(*[lambda barrier=b: two_rounds(barrier) for b in barriers]).verdict()

    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 1, "out of bounds")
    assert verdict.round == (1 if when == "barrier_enter" else 2)


@EITHER_STORE
def test_leaving_a_barrier_by_an_exception_tells_it_to_those_who_wait(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(2, store)
    ranks = arriving(barriers[0])
    job.wait_until_arrived(0)

    with pytest.raises(OSError, match="disk full"), barriers[1]:
        raise OSError("disk full on /ckpt")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank) == ("abort", 1)
    assert verdict.reason == "OSError: disk full on /ckpt"


@EITHER_STORE
def test_an_abort_that_names_its_round_breaks_no_other(
    job: LocalJob, store: StoreAccess | None
) -> None:
    barriers = job.barriers(2, store)
    arriving(*barriers).pass_()

    assert not barriers[0].abort("round 1 takes too long", round=1)
    arriving(*barriers).pass_()
    assert barriers[0].abort("no space", round=3)

    verdict = arriving(*barriers).verdict()
    assert (verdict.kind, verdict.round, verdict.reason) == ("abort", 3, "no space")


def test_an_abort_that_comes_as_its_round_passes_harms_none_after_it(job: LocalJob) -> None:
    barriers = job.barriers(2)

    class LateThread:
        @hookimpl
        def barrier_exit(self, barrier: Barrier, round: int) -> None:
            if barrier is barriers[0] and round == 1:
                # As a thread does that has looked before the round had passed.
                barriers[0]._abort("round 1 takes too long", 1)

    with observed_by(LateThread()):
        arriving(*barriers).pass_()
    arriving(*barriers).pass_()


def abort(rank: int, barrier: Barrier) -> None:
    barrier.abort("preempted")


@pytest.mark.parametrize("then", ["come again", "close"])
def test_an_abort_by_another_thread_at_the_moment_of_arrival_is_no_error_of_use(
    job: LocalJob, then: str
) -> None:
    threads = RankThreads(1)
    for number in range(300):
        barrier = job.barrier(0, 1, barrier_prefix=f"{job.prefix}/{number}")
        aborting = threads.start(0, abort, barrier)
        with suppress(BrokenBarrierError):
            while not aborting.done():
                barrier.execute_barrier()
            barrier.execute_barrier()
        if then == "come again":
            aborting.result(20)
            with pytest.raises(BrokenBarrierError, match="preempted"):
                barrier.execute_barrier()
        barrier.close()
        aborting.result(20)
    threads.close()
