"""Every broken round is told to the observers exactly once on every rank, however it broke."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from barrier_core import (
    Barrier,
    BarrierFailedError,
    BarrierUsageError,
    RankConflictError,
    hookimpl,
)
from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.testing.conformance.rank_side import Recorder
from tests.support.injected_stores import InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving, observed_by

WORLD_SIZE = 3
CULPRIT = 2


class Interrupted(BaseException):
    """What a signal handler raises, like KeyboardInterrupt."""


class InterruptingAccess(InjectedAccess):
    """The culprit's store, whose calls a signal handler interrupts if the test wants it so."""

    interrupts: str = ""
    interrupt: BaseException = Interrupted("stop")
    """The name of the call."""

    def after(self, call: StoreCall) -> None:
        if call.name == self.interrupts:
            self.interrupts = ""
            raise self.interrupt


class Trio:
    """Three ranks that have passed round 1, and what the observers of each have heard since."""

    def __init__(self, job: LocalJob) -> None:
        self.job = job
        self.store = InterruptingAccess()
        self.barriers = [
            job.barrier(rank, WORLD_SIZE, self.store if rank == CULPRIT else None)
            for rank in range(WORLD_SIZE)
        ]
        arriving(*self.barriers).pass_()
        self.recorders = [job.listen(barrier) for barrier in self.barriers]

    @property
    def culprit(self) -> StoreBarrier:
        return self.barriers[CULPRIT]

    def others_arrive(self) -> Ranks:
        ranks = arriving(*self.barriers[:CULPRIT])
        self.job.wait_until_arrived(*range(CULPRIT), number=2)
        return ranks


@pytest.fixture
def trio(job: LocalJob) -> Trio:
    return Trio(job)


def leave_phase(trio: Trio) -> None:
    others = trio.others_arrive()
    with pytest.raises(OSError, match="disk full"), trio.culprit.phase("save"):
        raise OSError("disk full")
    others.verdict()


def abort_between_rounds(trio: Trio) -> None:
    trio.culprit.abort("no data")


def abort_while_others_wait(trio: Trio) -> None:
    others = trio.others_arrive()
    trio.culprit.abort("no data")
    others.verdict()


def abort_beside_a_waiting_thread(trio: Trio) -> None:
    waiting = arriving(trio.culprit)
    trio.job.wait_until_arrived(CULPRIT, number=2)
    trio.culprit.abort("no data")
    waiting.verdict()


def run_out_of_time(trio: Trio) -> None:
    arriving(*trio.barriers[:CULPRIT], timeout_secs=0.3).verdict()


def come_with_another_tag(trio: Trio) -> None:
    others = trio.others_arrive()
    with pytest.raises(BarrierFailedError):
        trio.culprit.execute_barrier(tag="another")
    others.verdict()


def be_dead(trio: Trio) -> None:
    others = trio.others_arrive()
    trio.culprit.close()  # this store has no other way to die
    others.verdict()


def be_joined_by_a_stranger(trio: Trio) -> None:
    others = trio.others_arrive()
    with pytest.raises(RankConflictError):
        trio.job.barrier(CULPRIT + 1, WORLD_SIZE + 1)
    others.verdict()


def be_interrupted_while_waiting(trio: Trio) -> None:
    trio.store.interrupts = "wait"
    with pytest.raises(Interrupted):
        trio.culprit.execute_barrier(timeout_secs=0.1)


def be_interrupted_while_arriving(trio: Trio) -> None:
    trio.store.interrupts = "append"
    with pytest.raises(Interrupted):
        trio.culprit.execute_barrier()


def be_interrupted_by_an_error_of_ours(trio: Trio) -> None:
    trio.store.interrupts = "wait"
    trio.store.interrupt = BarrierUsageError("a signal handler has used the barrier")
    with pytest.raises(BarrierUsageError):
        trio.culprit.execute_barrier()


class AbortingObserver:
    """An observer that stops the job."""

    def __init__(self, barrier: Barrier, hook: str) -> None:
        self._barrier = barrier
        self._hook = hook

    @hookimpl
    def barrier_enter(self, barrier: Barrier) -> None:
        self._abort(barrier, "enter")

    @hookimpl
    def barrier_exit(self, barrier: Barrier) -> None:
        self._abort(barrier, "exit")

    @hookimpl
    def barrier_failed(self, barrier: Barrier) -> None:
        self._abort(barrier, "failed")

    def _abort(self, barrier: Barrier, hook: str) -> None:
        if barrier is self._barrier and hook == self._hook:
            barrier.abort("out of bounds")


def be_aborted_by_an_observer_on_entry(trio: Trio) -> None:
    others = trio.others_arrive()
    with observed_by(AbortingObserver(trio.culprit, "enter")), pytest.raises(BarrierFailedError):
        trio.culprit.execute_barrier()
    others.verdict()


def be_aborted_by_an_observer_on_exit(trio: Trio) -> None:
    with observed_by(AbortingObserver(trio.culprit, "exit")):
        arriving(*trio.barriers).pass_()


def be_aborted_by_an_observer_of_the_failure(trio: Trio) -> None:
    with observed_by(AbortingObserver(trio.culprit, "failed")):
        trio.culprit.abort("no data")


WAYS_TO_BREAK = [
    leave_phase,
    abort_between_rounds,
    abort_while_others_wait,
    abort_beside_a_waiting_thread,
    run_out_of_time,
    come_with_another_tag,
    be_dead,
    be_joined_by_a_stranger,
    be_interrupted_while_waiting,
    be_interrupted_while_arriving,
    be_interrupted_by_an_error_of_ours,
    be_aborted_by_an_observer_on_entry,
    be_aborted_by_an_observer_on_exit,
    be_aborted_by_an_observer_of_the_failure,
]


def rounds_told(recorder: Recorder, hook: str) -> list[int]:
    return [event.round for event in recorder.events if event.hook == hook]


@pytest.mark.parametrize("break_round", WAYS_TO_BREAK, ids=lambda way: way.__name__)
def test_a_broken_round_is_told_once_on_every_rank(
    trio: Trio, break_round: Callable[[Trio], None]
) -> None:
    break_round(trio)
    for barrier in trio.barriers:
        if not barrier.closed:
            for _ in range(2):  # it is raised at every call, and told only once
                with pytest.raises(BarrierFailedError):
                    barrier.execute_barrier()

    for barrier, recorder in zip(trio.barriers, trio.recorders, strict=True):
        passed, failed = rounds_told(recorder, "exit"), rounds_told(recorder, "failed")
        if barrier.closed:
            assert (passed, failed) == ([], [])  # it has left before
            continue
        assert barrier.failed is not None
        verdict = barrier.failed.verdict
        assert failed == [verdict.round] == [barrier.round]
        assert passed == list(range(2, verdict.round))
        assert set(rounds_told(recorder, "enter")) <= {*passed, *failed}
        (event,) = [event for event in recorder.events if event.hook == "failed"]
        assert isinstance(event.error, BarrierFailedError)
        assert event.error.verdict == verdict
