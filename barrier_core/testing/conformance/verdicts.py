"""Standard tests of rounds that do not pass: the time limit, the names, the one verdict."""

from __future__ import annotations

import time

import pytest

from barrier_core.capability import Capability
from barrier_core.errors import BarrierTimeoutError
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Arrivals, Job
from barrier_core.testing.conformance.suite import SHORT_SECS, Suite, needs


class VerdictTests(Suite):
    """A round that does not pass ends in time, and says why."""

    # Deadlines.

    @needs(Capability.TIMEOUT)
    @pytest.mark.parametrize("limit_of", ["the call", "the barrier"])
    def test_a_wait_ends_when_its_time_is_up(self, job: Job, limit_of: str) -> None:
        """``timeout_secs`` ends a wait, neither sooner nor much later, with an error."""
        if limit_of == "the call":
            job.join()
            arrivals = job.arrive(job.but_last, timeout_secs=SHORT_SECS)
        else:
            job.join(timeout_secs=SHORT_SECS)
            arrivals = job.arrive(job.but_last)
        visits = [seen[-1] for seen in job.visits(arrivals).values()]
        began = min(visit.entered for visit in visits)
        for visit in visits:
            job.check(visit.error, f"rank {visit.rank} passed without rank {job.last}")
            took = visit.left - began
            job.check(took > 0.8 * SHORT_SECS, f"rank {visit.rank} gave up after {took:.2f} s")
        job.check(
            any(isinstance(visit.error, BarrierTimeoutError) for visit in visits),
            "no rank raised a BarrierTimeoutError",
        )

    @needs(Capability.TIMEOUT)
    def test_a_broken_barrier_stays_broken(self, job: Job) -> None:
        """After a round that did not pass, no other passes, and the same verdict is raised."""
        job.join()
        before = job.verdicts(job.arrive(job.but_last, timeout_secs=SHORT_SECS))
        after = job.verdicts(job.arrive(job.but_last))
        job.check(before == after, f"first {before}, then {after}")

    # Names.

    @needs(Capability.NAMES, Capability.TIMEOUT)
    def test_a_failed_round_names_the_missing_ranks(self, job: Job) -> None:
        """Every rank is told which ranks are missing, on which host and with which pid."""
        job.join()
        missing = [1, job.last]
        present = [rank for rank in job.everyone if rank not in missing]
        verdicts = job.verdicts(job.arrive(present, timeout_secs=SHORT_SECS, tag="save step=1"))
        for rank, verdict in verdicts.items():
            named = [status.rank for status in verdict.missing]
            job.check(named == missing, f"rank {rank} names {named} as missing, not {missing}")
            for status in verdict.missing:
                job.check(
                    (status.host, status.pid) == job.identities[status.rank],
                    f"rank {rank} says {status.host}, pid {status.pid} of rank {status.rank}, "
                    f"which is {job.identities[status.rank]}",
                )
            job.check(
                (verdict.tag, verdict.world_size) == ("save step=1", self.world_size),
                f"rank {rank} says tag {verdict.tag!r}, world size {verdict.world_size}",
            )

    @needs(Capability.NAMES, Capability.TIMEOUT)
    def test_a_rank_that_has_not_joined_is_named(self, job: Job) -> None:
        """A rank that never started is missing, too."""
        calls = {rank: job.start_join(rank, job.spec(rank)) for rank in job.but_last}
        if any(job.error_of(rank, call, "making its barrier") for rank, call in calls.items()):
            pytest.skip("not checked: a barrier of this backend needs all ranks to be made")
        verdicts = job.verdicts(job.arrive(job.but_last, timeout_secs=SHORT_SECS))
        for rank, verdict in verdicts.items():
            named = [status.rank for status in verdict.missing]
            job.check(named == [job.last], f"rank {rank} names {named}, not {[job.last]}")

    # One verdict.

    @needs(Capability.ONE_VERDICT, Capability.TIMEOUT)
    def test_every_rank_raises_the_same_verdict(self, job: Job) -> None:
        """A round is decided once: every rank raises that verdict, a late one on arrival."""
        job.join()
        arrivals: Arrivals = {}
        for rank in job.but_last:
            arrivals |= job.arrive([rank], timeout_secs=SHORT_SECS + 0.1 * rank)
        verdicts = job.verdicts(arrivals)
        verdicts |= job.verdicts(job.arrive([job.last]))
        job.check_one_verdict(verdicts)

    @needs(Capability.ONE_VERDICT, Capability.TIMEOUT)
    def test_a_rank_that_comes_as_time_runs_out_shares_the_outcome(self, job: Job) -> None:
        """A round passes for all ranks or for none, also if the last comes at the deadline."""
        limit = 0.2
        for attempt in range(3):
            name = f"{job.name}-{attempt}"
            job.join(name=name)
            key = job.key(name)
            start = time.monotonic() + 0.05
            late_by = limit + job.random.uniform(-0.02, 0.02)
            arrivals = {
                rank: job.ranks.start(
                    rank,
                    rank_side.visit_after,
                    key,
                    start + (late_by if rank == job.last else 0.0),
                    limit,
                )
                for rank in job.everyone
            }
            errors = {rank: seen[-1].error for rank, seen in job.visits(arrivals).items()}
            passed = [rank for rank, error in errors.items() if error is None]
            if passed and len(passed) < self.world_size:
                job.violated(f"the round passed for ranks {passed} only")
            if not passed:
                job.the_verdict(arrivals)
