"""Standard tests of forked children: one never acts for its parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from barrier_core.capability import Capability
from barrier_core.testing.conformance import rank_forks
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import Suite, needs, processes_only
from barrier_core.testing.rank_processes import RankProcesses


class ForkTests(Suite):
    """Ranks that fork, as a data loader does."""

    @processes_only
    def test_a_forked_child_never_acts_for_its_parent(self, job: Job) -> None:
        """What a forked child calls is refused there, and changes nothing for the ranks."""
        job.join()
        job.pass_through(job.arrive())
        calls: list[tuple[Any, ...]] = [("execute_barrier",)]
        if Capability.ABORT in self.backend.capabilities:
            calls.append(("abort", "by a child"))
        if Capability.PROGRESS in self.backend.capabilities:
            calls.append(("report_progress", "of a child"))
        for method, *arguments in calls:
            code = job.run(0, rank_forks.call_in_child, method, *arguments)
            job.check(
                code == rank_forks.REFUSED,
                f"{method}() in a forked child is not a BarrierUsageError (exit code {code})",
            )
        job.pass_through(job.arrive(rounds=3))

    @processes_only
    def test_a_forked_child_closes_its_own_copy_alone(self, job: Job) -> None:
        """``close``, and leaving a ``with`` block, in a forked child change nothing for others."""
        job.join()
        for code in (
            job.run(0, rank_forks.call_in_child, "close"),
            job.run(0, rank_forks.leave_context_in_child),
        ):
            job.check(code == rank_forks.DID_IT, f"the child ended with exit code {code}")
        job.pass_through(job.arrive(rounds=3))

    @needs(Capability.ABORT)
    @processes_only
    @pytest.mark.parametrize(
        ("leave", "expected"),
        [
            pytest.param(rank_forks.leave_phase_in_child, rank_forks.REFUSED, id="normally"),
            pytest.param(rank_forks.exit_in_phase_in_child, 0, id="by sys.exit"),
        ],
    )
    def test_a_child_that_leaves_a_phase_neither_arrives_nor_aborts(
        self, job: Job, leave: Callable[..., Any], expected: int
    ) -> None:
        """A child that was forked in a phase leaves it alone: the rank's own way out counts."""
        job.join()
        arrivals = job.arrive(job.everyone[1:], tag="save")
        code, visits = job.run(0, leave, "save")
        job.check(code == expected, f"the child ended with exit code {code}, not {expected}")
        job.check(visits[0].error is None, f"rank 0 raised {visits[0].error!r}")
        job.pass_through(arrivals)
        job.pass_through(job.arrive(rounds=3))

    @needs(Capability.LIVENESS)
    @processes_only
    def test_a_forked_child_keeps_no_connection_open(self, job: Job) -> None:
        """A connection ends with its rank, as those at its other end take its end for a death."""
        before = job.ranks.run(0, rank_forks.sockets_in_child)
        job.join()
        job.pass_through(job.arrive())
        kept = job.ranks.run(0, rank_forks.sockets_in_child) - before
        job.check(not kept, f"a forked child has {len(kept)} sockets of its parent's barrier open")

    @needs(Capability.LIVENESS)
    @processes_only
    def test_a_killed_rank_is_dead_although_its_child_lives(self, job: Job) -> None:
        """A rank whose process dies is called dead, whatever its forked children do."""
        job.join()
        child = job.run(job.last, rank_forks.fork_a_child_that_stays)
        try:
            arrivals = job.arrive(job.but_last)
            assert isinstance(job.ranks, RankProcesses)
            job.ranks.kill(job.last)
            for rank, verdict in job.verdicts(arrivals).items():
                dead = [status.rank for status in verdict.missing if status.state == "dead"]
                job.check(
                    (verdict.kind, dead) == ("dead", [job.last]),
                    f"rank {rank} was told {verdict.kind}, and that the dead are {dead}",
                )
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
