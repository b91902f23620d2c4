"""Standard tests of what a rank tells the others: an abort, a tag, its progress."""

from __future__ import annotations

from barrier_core.capability import Capability
from barrier_core.errors import BarrierConfigError, BrokenBarrierError
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Arrivals, Job
from barrier_core.testing.conformance.suite import Suite, needs, processes_only

_DEAF_SECS = 2.0
"""The time limit of a wait that Ctrl-C may not end before."""


class MessageTests(Suite):
    """What one rank says reaches the others."""

    # Abort and phase.

    @needs(Capability.ABORT)
    def test_an_abort_reaches_every_rank_that_waits(self, job: Job) -> None:
        """``abort`` breaks the round under way on every rank, with its reason and its rank."""
        job.join()
        arrivals = job.arrive(job.but_last)
        job.run(job.last, rank_side.call, "abort", "disk full on /ckpt")
        self._check_aborted(job, arrivals | job.arrive([job.last]), "disk full on /ckpt")

    @needs(Capability.ABORT)
    def test_an_abort_breaks_the_round_that_others_come_to_later(self, job: Job) -> None:
        """``abort`` between rounds breaks the next one."""
        job.join()
        job.pass_through(job.arrive())
        job.run(0, rank_side.call, "abort", "out of memory")
        job.run(0, rank_side.call, "abort", "a second time, which does nothing")
        self._check_aborted(job, job.arrive(), "out of memory")

    @needs(Capability.ABORT)
    def test_another_thread_of_a_rank_that_waits_can_abort(self, job: Job) -> None:
        """``abort`` may be called while this rank itself waits, by another of its threads."""
        job.join()
        arrivals = job.arrive(job.but_last[1:])
        arrivals[0] = job.start(0, rank_side.visit_while_a_thread_aborts, "told to stop")
        self._check_aborted(job, arrivals, "told to stop")

    def _check_aborted(self, job: Job, arrivals: Arrivals, reason: str) -> None:
        for rank, seen in job.visits(arrivals).items():
            if not isinstance(seen[-1].error, BrokenBarrierError):
                job.violated(f"rank {rank} did not raise a BrokenBarrierError", seen[-1].error)
            verdict = seen[-1].error.verdict
            job.check(
                verdict.kind == "abort" and reason in verdict.reason,
                f"rank {rank} was told {verdict.kind}: {verdict.reason!r}, not abort: {reason!r}",
            )

    @needs(Capability.ABORT)
    def test_a_phase_ends_in_the_barrier(self, job: Job) -> None:
        """Leaving a phase normally arrives and waits for the others."""
        job.join()
        job.pass_through(
            {rank: job.start(rank, rank_side.go_through_phase, "save", "") for rank in job.everyone}
        )

    @needs(Capability.ABORT)
    def test_leaving_a_phase_by_an_exception_aborts(self, job: Job) -> None:
        """A rank that fails in a phase keeps its exception, and tells it to the others."""
        job.join()
        arrivals = job.arrive(job.but_last, tag="save")
        failing = job.visits(
            {job.last: job.start(job.last, rank_side.go_through_phase, "save", "disk full")}
        )
        own = failing[job.last][-1].error
        job.check(isinstance(own, OSError), f"rank {job.last} raised {own!r}, not its OSError")
        self._check_aborted(job, arrivals, "disk full")

    @needs(Capability.TIMEOUT)
    @processes_only
    def test_ctrl_c_ends_a_wait(self, job: Job) -> None:
        """Ctrl-C ends a wait: at once where the others can be told, else when its time is up."""
        job.join()
        others_hear = Capability.ABORT in self.backend.capabilities
        arrivals = job.arrive(job.but_last[1:]) if others_hear else {}
        # A call into C may see no signal until it returns; who can abort must not be held up there.
        limit_secs = None if others_hear else _DEAF_SECS
        call = job.start(0, rank_side.visit_until_interrupted, limit_secs)
        error = job.error_of(0, call, "execute_barrier(), in which Ctrl-C was pressed")
        if not isinstance(error, KeyboardInterrupt):
            job.violated("rank 0 did not raise a KeyboardInterrupt", error)
        if others_hear:
            self._check_aborted(job, arrivals | job.arrive([job.last]), "KeyboardInterrupt")

    # Tags.

    @needs(Capability.TAGS)
    def test_ranks_with_different_tags_do_not_pass_each_other(self, job: Job) -> None:
        """Ranks that come with different tags are told which rank came with which."""
        job.join()
        arrivals = job.arrive(job.but_last, tag="save step=1") | job.arrive(
            [job.last], tag="load step=1"
        )
        for rank, verdict in job.verdicts(arrivals).items():
            job.check(verdict.kind == "mismatch", f"rank {rank} was told {verdict.kind}")
            told = set(verdict.tags or {})
            job.check(
                told == {"save step=1", "load step=1"}, f"rank {rank} was told the tags {told}"
            )

    def test_any_text_can_be_a_tag(self, job: Job) -> None:
        """A tag may hold any characters; one of more than 500 bytes is refused."""
        job.join()
        error = job.refusal(0, rank_side.call, "execute_barrier", None, "x" * 501)
        if not isinstance(error, BarrierConfigError):
            job.violated("a tag of 501 bytes is not a BarrierConfigError", error)
        for tag in ("save step=1200", "a/b%2F?\\ \"'", "två\nlines\t\u2603 \x00", "x" * 500):
            job.pass_through(job.arrive(tag=tag))

    # Progress.

    @needs(Capability.PROGRESS, Capability.NAMES, Capability.TIMEOUT)
    def test_progress_reaches_the_ranks_that_wait(self, job: Job) -> None:
        """What a late rank has reported is told to the others when the round fails."""
        job.join()
        job.run(job.last, rank_side.call, "report_progress", "shard 12/40")
        verdicts = job.verdicts(job.arrive(job.but_last, timeout_secs=1.0))
        for rank, verdict in verdicts.items():
            told = [status.progress for status in verdict.missing]
            job.check(told == ["shard 12/40"], f"rank {rank} was told the progress {told}")
