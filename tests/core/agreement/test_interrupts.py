"""Ctrl-C, and whatever else a signal handler raises, at any point of a round."""

from __future__ import annotations

import os
import signal
from types import FrameType

import pytest

from barrier_core import Barrier, hookimpl
from tests.support.injected_stores import InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving, observed_by


class Interrupted(BaseException):
    """What a signal handler raises, like KeyboardInterrupt."""


def test_an_interrupt_while_waiting_breaks_the_round_for_the_others(job: LocalJob) -> None:
    barriers = job.barriers(3)

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted("stop")

    def interrupt_rank_0() -> None:
        job.wait_until_arrived(0, 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        helper = Ranks(interrupt_rank_0)
        other = arriving(barriers[1])
        with pytest.raises(Interrupted):
            barriers[0].execute_barrier()
    finally:
        signal.signal(signal.SIGUSR1, before)

    helper.pass_()
    verdict = other.verdict()
    assert (verdict.kind, verdict.rank) == ("abort", 0)
    assert verdict.reason == "Interrupted: stop"
    assert arriving(*barriers).verdict() == verdict


class InterruptOnEntry:
    """Stands for a signal that comes when a round has been begun and nothing is sent."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier

    @hookimpl
    def barrier_enter(self, barrier: Barrier) -> None:
        if barrier is self._barrier:
            raise Interrupted("too early")


def test_a_call_interrupted_before_it_arrived_has_used_up_no_round(job: LocalJob) -> None:
    barriers = job.barriers(2)
    with observed_by(InterruptOnEntry(barriers[1])), pytest.raises(Interrupted):
        barriers[1].execute_barrier()

    arriving(*barriers).pass_()

    assert [barrier.round for barrier in barriers] == [1, 1]


def test_a_rank_interrupted_before_it_arrived_releases_nobody_by_aborting(job: LocalJob) -> None:
    barriers = job.barriers(2)
    ranks = arriving(barriers[0])
    with observed_by(InterruptOnEntry(barriers[1])), pytest.raises(Interrupted):
        barriers[1].execute_barrier()

    barriers[1].abort("gave up")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.round, verdict.rank) == ("abort", 1, 1)


class Numbers:
    """Keeps the number of each round that one barrier enters; the first entries are interrupted."""

    def __init__(self, barrier: Barrier, interruptions: int) -> None:
        self.entered: list[int] = []
        self._barrier = barrier
        self._interruptions = interruptions

    @hookimpl
    def barrier_enter(self, barrier: Barrier, round: int) -> None:
        if barrier is self._barrier:
            self.entered.append(round)
            if len(self.entered) <= self._interruptions:
                raise Interrupted("too early")


def test_a_round_is_entered_with_its_number_also_after_interrupted_calls(job: LocalJob) -> None:
    barriers = job.barriers(2)
    recorder = job.listen(barriers[1])
    numbers = Numbers(barriers[1], interruptions=2)

    with observed_by(numbers):
        for _ in range(2):
            with pytest.raises(Interrupted):
                barriers[1].execute_barrier()
        arriving(*barriers).pass_()
        barriers[0].abort("no data")
        arriving(*barriers).verdict()

    assert numbers.entered == [1, 1, 1, 2]
    ends = [(event.hook, event.round) for event in recorder.events if event.hook != "enter"]
    assert ends == [("exit", 1), ("failed", 2)]


class InterruptedAgain(InjectedAccess):
    """Interrupts the wait, and then, once, what a rank does to end the round that it leaves."""

    def __init__(self, again: str, late: bool) -> None:
        super().__init__()
        self._plan = ["wait", again]
        self._late = late
        self.arrivals = 0

    def before(self, call: StoreCall) -> None:
        if not self._late:
            self._interrupt(call)

    def after(self, call: StoreCall) -> None:
        if call.name == "arrive":
            self.arrivals += 1
        if self._late:
            self._interrupt(call)

    def _interrupt(self, call: StoreCall) -> None:
        if self._plan[:1] == [call.name]:
            raise Interrupted("first" if self._plan.pop(0) == "wait" else "second")


@pytest.mark.parametrize("late", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("again", ["remove", "append", "read", "create"])
def test_a_round_whose_interrupt_is_interrupted_is_ended_once(
    job: LocalJob, again: str, late: bool
) -> None:
    store = InterruptedAgain(again, late)
    barriers = [job.barrier(0, 2, store), job.barrier(1, 2)]
    recorder = job.listen(barriers[0])

    with pytest.raises(Interrupted, match="second"):
        barriers[0].execute_barrier(timeout_secs=0.1)

    assert barriers[0].failed is not None
    verdict = barriers[0].failed.verdict
    assert (verdict.kind, verdict.round, verdict.reason) == ("abort", 1, "Interrupted: first")
    assert arriving(*barriers).verdict() == verdict
    assert store.arrivals == 1
    assert [(event.hook, event.round) for event in recorder.events] == [("enter", 1), ("failed", 1)]
