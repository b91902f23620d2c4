"""Standard tests of who belongs to the job: dead and late ranks, restarted jobs, impostors."""

from __future__ import annotations

import pytest

from barrier_core.capability import Capability
from barrier_core.errors import RankConflictError
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import SHORT_SECS, Suite, needs, processes_only
from barrier_core.testing.rank_processes import RankProcesses


class MemberTests(Suite):
    """Ranks that die, stand still, leave, come back, or do not belong here."""

    # Liveness.

    @needs(Capability.LIVENESS)
    @processes_only
    def test_a_killed_rank_breaks_the_round(self, job: Job) -> None:
        """A rank whose process dies breaks the round at once, and is called dead."""
        job.join()
        self._check_found_dead(job)

    @needs(Capability.LIVENESS, Capability.TIMEOUT)
    @processes_only
    def test_a_rank_killed_on_another_machine_breaks_the_round(self, job: Job) -> None:
        """A rank is called dead also where its pid means nothing to the other ranks.

        What is reported of a process must come over the network: the last rank says that it runs on
        another machine. A backend for one machine leaves this out.
        """
        job.join(job.but_last)
        call = job.ranks.start(job.last, rank_side.join_elsewhere, job.factory, job.spec(job.last))
        error = job.error_of(job.last, call, "making its barrier")
        if error is not None:
            job.violated(f"rank {job.last}, on another machine, could not join", error)
        self._check_found_dead(job)

    def _check_found_dead(self, job: Job) -> None:
        arrivals = job.arrive(job.but_last, timeout_secs=self.patience_secs / 2)
        _processes(job).kill(job.last)
        for rank, verdict in job.verdicts(arrivals).items():
            states = {status.rank: status.state for status in verdict.missing}
            job.check(
                (verdict.kind, states) == ("dead", {job.last: "dead"}),
                f"rank {rank} was told {verdict.kind}, and of the missing ranks {states}",
            )

    @needs(Capability.LIVENESS, Capability.TIMEOUT)
    @processes_only
    def test_a_stopped_rank_is_late_but_not_dead(self, job: Job) -> None:
        """Silence is not death: a rank that stands still may go on."""
        job.join()
        _processes(job).stop(job.last)
        for rank, verdict in job.verdicts(job.arrive(job.but_last, timeout_secs=1.0)).items():
            states = [status.state for status in verdict.missing]
            job.check(
                verdict.kind == "timeout" and "dead" not in states,
                f"rank {rank} was told {verdict.kind}, and {states} of the stopped rank",
            )

    @needs(Capability.LIVENESS)
    def test_a_rank_that_has_closed_its_barrier_breaks_the_round(self, job: Job) -> None:
        """Nobody waits for a rank that has left for good."""
        job.join()
        arrivals = job.arrive(job.but_last)
        leaving = job.start(job.last, rank_side.call, "close")
        for rank, verdict in job.verdicts(arrivals).items():
            left = [status.rank for status in verdict.missing if status.state == "left"]
            job.check(
                (verdict.kind, left) == ("left", [job.last]),
                f"rank {rank} was told {verdict.kind}, and that {left} have left",
            )
        job.leave()
        job.check(leaving.done(), "the rank has not left")

    # Generations.

    @needs(Capability.GENERATIONS, Capability.TIMEOUT)
    def test_a_restarted_job_sees_nothing_of_the_one_before(self, job: Job) -> None:
        """In a new generation the arrivals and verdicts of the one before do not count."""
        job.join()
        job.pass_through(job.arrive())
        job.verdicts(job.arrive(job.but_last, timeout_secs=SHORT_SECS))
        job.join(generation="1")
        key = job.key(generation="1")
        job.pass_through(job.arrive(rounds=5, max_delay_secs=0.02, key=key))

    @needs(Capability.GENERATIONS, Capability.TIMEOUT)
    def test_barriers_with_different_names_never_meet(self, job: Job) -> None:
        """Ranks at one barrier do not count at another, however similar the names are."""
        name, other = f"{job.name}/1", f"{job.name}/1/1"
        job.join(name=name)
        job.join(name=other)
        arrivals = job.arrive(job.but_last, timeout_secs=SHORT_SECS, key=job.key(name))
        arrivals |= job.arrive([job.last], timeout_secs=SHORT_SECS, key=job.key(other))
        job.verdicts(arrivals)

    @needs(Capability.GENERATIONS, Capability.TIMEOUT)
    def test_two_jobs_never_meet(self, job: Job) -> None:
        """Jobs with different ids pass only with their own ranks, whatever else they share."""
        first = self.world_size // 2
        workers = {"a": job.everyone[:first], "b": job.everyone[first:]}
        for job_id, members in workers.items():
            for rank, worker in enumerate(members):
                spec = job.spec(rank, world_size=len(members), job_id=job_id)
                error = job.join_error(worker, spec)
                if error is not None:
                    job.violated(f"rank {rank} of job {job_id!r} could not join", error)
        keys = {job_id: job.key(job_id=job_id) for job_id in workers}
        if job.ranks.run(0, rank_side.job_id, keys["a"]) != "a":
            pytest.skip("not checked: make_barrier does not pass job_id on")
        arrivals = {name: job.arrive(workers[name], rounds=3, key=keys[name]) for name in workers}
        for each in arrivals.values():
            job.pass_through(each)
        alone = job.arrive(workers["b"][1:], timeout_secs=SHORT_SECS, key=keys["b"])
        others = job.arrive(workers["a"], key=keys["a"])
        job.pass_through(others)
        job.verdicts(alone)

    @needs(Capability.GENERATIONS)
    def test_a_rank_that_is_taken_is_refused(self, job: Job) -> None:
        """Of two that claim one rank, one is told so, and says it to the others."""
        job.join()
        error = job.join_error(1, job.spec(0))
        if not isinstance(error, RankConflictError):
            job.violated("a second rank 0 was not refused by a RankConflictError", error)

    @needs(Capability.GENERATIONS)
    def test_a_rank_with_another_world_size_is_refused(self, job: Job) -> None:
        """Ranks that disagree about the world size are told so when they start."""
        calls = {0: job.start_join(0, job.spec(0))}
        calls[1] = job.start_join(1, job.spec(1, world_size=self.world_size + 1))
        errors = [job.error_of(rank, call, "joining") for rank, call in calls.items()]
        if not any(isinstance(error, RankConflictError) for error in errors):
            job.violated(f"no RankConflictError on either rank: {errors}")

    @needs(Capability.GENERATIONS)
    @processes_only
    def test_a_rank_that_comes_back_alone_is_refused(self, job: Job) -> None:
        """A rank that was started again, without the others, must not corrupt the count.

        Once it has been in a round, that is: before, a backend may let it join again.
        """
        job.join()
        job.pass_through(job.arrive())
        _processes(job).replace(job.last)
        error = job.join_error(job.last, job.spec(job.last))
        if not isinstance(error, RankConflictError):
            job.violated(f"rank {job.last} was not refused by a RankConflictError", error)


def _processes(job: Job) -> RankProcesses:
    assert isinstance(job.ranks, RankProcesses)
    return job.ranks
