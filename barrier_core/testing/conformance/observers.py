"""Standard tests of what observers are told."""

from __future__ import annotations

import pytest

from barrier_core.capability import Capability
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import SHORT_SECS, Suite, needs


class ObserverTests(Suite):
    """Observers hear of every round, and cannot do harm."""

    # Observers.

    def test_observers_hear_of_every_round(self, job: Job) -> None:
        """Observers are told when a rank enters and leaves each round, and of the end."""
        job.join()
        for rank in job.everyone:
            job.run(rank, rank_side.listen, False)
        job.pass_through(job.arrive(rounds=2, tag="save"))
        expected = [(hook, number) for number in (1, 2) for hook in ("enter", "exit")]
        for rank in job.everyone:
            heard = [(event.hook, event.round) for event in job.heard(rank) if event.tag == "save"]
            job.check(heard == expected, f"rank {rank}'s observer heard {heard}, not {expected}")
        closing = {rank: job.start(rank, rank_side.call, "close") for rank in job.everyone}
        for rank, call in closing.items():
            job.error_of(rank, call, "close()")
            job.check(
                job.heard(rank)[-1].hook == "closed", f"rank {rank}'s observer heard of no close"
            )

    @needs(Capability.TIMEOUT)
    def test_observers_hear_of_a_failure(self, job: Job) -> None:
        """Observers are told of a failed round, with the error that the caller gets."""
        job.join()
        job.run(0, rank_side.listen, False)
        visits = job.visits(job.arrive(job.but_last, timeout_secs=SHORT_SECS, tag="save"))
        event = job.heard(0)[-1]
        raised, told = str(visits[0][-1].error), str(event.error)
        job.check(event.hook == "failed", f"the observer last heard of {event.hook!r}")
        job.check(told == raised, f"the observer was told {told!r}; raised was {raised!r}")

    @needs(Capability.NAMES, Capability.TIMEOUT)
    def test_observers_hear_who_is_missing(self, job: Job) -> None:
        """After ``warn_after_secs`` observers are told who is missing, while there is time."""
        job.join(warn_after_secs=0.3)
        if job.run(0, rank_side.limits)[1] != 0.3:
            pytest.skip("not checked: make_barrier does not pass warn_after_secs on")
        job.run(0, rank_side.listen, False)
        job.visits(job.arrive(job.but_last, timeout_secs=1.5))
        told = [
            [status.rank for status in event.missing]
            for event in job.heard(0)
            if event.hook == "waiting"
        ]
        job.check(told and told[0] == [job.last], f"rank 0's observer was told {told}")

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_an_observer_that_raises_breaks_nothing(self, job: Job) -> None:
        """An observer that raises is logged, and neither stops nor breaks a barrier."""
        job.join()
        for rank in job.everyone:
            job.run(rank, rank_side.listen, True)
        job.pass_through(job.arrive(rounds=3))
