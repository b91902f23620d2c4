"""Standard tests of the class itself, and of what a barrier is for: nobody leaves too early."""

from __future__ import annotations

import inspect

import pytest

from barrier_core.capability import Capability
from barrier_core.contract import Barrier
from barrier_core.errors import BarrierUsageError
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import Suite


class SafetyTests(Suite):
    """Safety and reuse: required of every backend."""

    # The class itself.

    def test_the_class_says_what_it_is(self) -> None:
        """A backend names its type and annotates its options, so that config can be checked."""
        cls = self.backend
        problems = []
        if not isinstance(cls, type) or not issubclass(cls, Barrier):
            problems.append("it does not derive from barrier_core.Barrier")
        elif inspect.isabstract(cls):
            problems.append("it is abstract: it has no _wait")
        if not getattr(cls, "barrier_type", ""):
            problems.append("barrier_type is not set")
        if not isinstance(getattr(cls, "capabilities", None), Capability):
            problems.append("capabilities is not a Capability")
        problems += [
            f"the constructor's {name} has no annotation"
            for name, parameter in list(inspect.signature(cls).parameters.items())
            if parameter.annotation is parameter.empty
        ]
        if problems:
            pytest.fail(f"{cls.__name__}: " + "; ".join(problems), pytrace=False)

    def test_the_class_under_test_is_the_one_that_is_made(self, job: Job) -> None:
        """The standard tests run against the class that they are said to run against."""
        for cls in job.join():
            job.check(cls is self.backend, f"make_barrier made a {cls}, backend is {self.backend}")

    # Safety and reuse: always.

    def test_no_rank_leaves_before_every_rank_has_entered(self, job: Job) -> None:
        """No rank leaves a round before every rank has entered it."""
        job.join()
        job.pass_through(job.arrive(rounds=30, max_delay_secs=0.01))

    def test_no_rank_leaves_without_the_last_one(self, job: Job) -> None:
        """However late the last rank is, the others wait for it; whichever rank it is."""
        job.join()
        for late in job.everyone:
            early = job.arrive([rank for rank in job.everyone if rank != late])
            job.pass_through(early | {late: job.start(late, rank_side.visit, [0.05], None, "")})

    def test_rounds_can_be_repeated_without_limit(self, job: Job) -> None:
        """A barrier can be used again and again, as fast as the ranks can."""
        job.join()
        visits = job.pass_through(job.arrive(rounds=100))
        for rank, seen in visits.items():
            numbers = [visit.round for visit in seen]
            job.check(
                numbers == list(range(1, 101)), f"rank {rank} counted its rounds as {numbers}"
            )

    def test_a_rank_alone_in_the_world_passes(self, job: Job) -> None:
        """With a world size of 1 there is nobody to wait for."""
        job.join([0], world_size=1)
        job.pass_through(job.arrive([0], rounds=3))

    def test_two_threads_of_a_rank_cannot_arrive_at_once(self, job: Job) -> None:
        """A second thread of a rank is told so, and counts neither as an arrival nor as a round."""
        job.join()
        error = job.refusal(0, rank_side.arrive_twice_at_once)
        if not isinstance(error, BarrierUsageError):
            job.violated("the second thread did not get a BarrierUsageError", error)
        arrivals = job.arrive(job.everyone[1:])
        job.pass_through(arrivals | {0: job.start(0, rank_side.visit_of_thread)})
        job.pass_through(job.arrive())
