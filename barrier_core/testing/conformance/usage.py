"""Standard tests of what is refused: after close, bad arguments, what is not declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from barrier_core.capability import Capability
from barrier_core.errors import BarrierConfigError, BarrierUsageError
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import Suite


class UsageTests(Suite):
    """What cannot be honoured is refused by a clear error."""

    # Close.

    def test_a_closed_barrier_refuses_to_go_on(self, job: Job) -> None:
        """``close`` is for good: a second one does nothing, any other call is told so."""
        job.join()
        job.pass_through(job.arrive())
        closing = {rank: job.start(rank, rank_side.use_as_context) for rank in job.everyone}
        for rank, call in closing.items():
            error = job.error_of(rank, call, "leaving a with block")
            job.check(error is None and call.result(0), f"rank {rank} is not closed: {error!r}")
        job.run(0, rank_side.call, "close")
        calls: list[tuple[Any, ...]] = [("execute_barrier",)]
        if Capability.ABORT in self.backend.capabilities:
            calls.append(("abort", "too late"))
        if Capability.PROGRESS in self.backend.capabilities:
            calls.append(("report_progress", "too late"))
        for method, *arguments in calls:
            error = job.refusal(0, rank_side.call, method, *arguments)
            if not isinstance(error, BarrierUsageError):
                job.violated(f"{method}() after close() is not a BarrierUsageError", error)

    # Bad arguments.

    @pytest.mark.parametrize(
        "wrong", [{"rank": -1}, {"rank": 2, "world_size": 2}, {"rank": 0, "world_size": 0}], ids=str
    )
    def test_an_impossible_rank_is_refused(self, job: Job, wrong: dict[str, int]) -> None:
        """A rank outside the world is an error when the barrier is made, never a guess."""
        error = job.join_error(0, job.spec(**{"rank": 0, **wrong}))
        if not isinstance(error, BarrierConfigError):
            job.violated(f"{wrong} is not refused by a BarrierConfigError", error)

    def test_a_time_limit_that_is_none_is_refused(self, job: Job) -> None:
        """A limit that is no positive number is an error, and uses up no round."""
        unusable = (0.0, -1.0, float("nan"), -float("inf"))
        for number, secs in enumerate(unusable):
            # All ranks: a constructor may wait for the others before it looks at its arguments.
            specs = [
                job.spec(rank, timeout_secs=secs, name=f"{job.name}-{number}")
                for rank in job.everyone
            ]
            calls = [job.start_join(spec.rank, spec) for spec in specs]
            for rank, call in enumerate(calls):
                error = job.error_of(rank, call, "making its barrier")
                if not isinstance(error, BarrierConfigError):
                    job.violated(f"timeout_secs={secs} is taken by the constructor", error)
        job.join()
        for secs in unusable:
            error = job.refusal(0, rank_side.call, "execute_barrier", secs)
            if not isinstance(error, BarrierConfigError):
                job.violated(f"timeout_secs={secs} is taken by execute_barrier()", error)
        job.pass_through(job.arrive())

    # What is not declared.

    def test_what_is_not_declared_is_refused(self, job: Job) -> None:
        """A call that the backend cannot honour is an error, never a silent no-op."""
        refused: list[tuple[Callable[..., object], tuple[str, ...]]] = []
        if Capability.ABORT not in self.backend.capabilities:
            refused += [(rank_side.call, ("abort", "reason")), (rank_side.enter_phase, ())]
        if Capability.PROGRESS not in self.backend.capabilities:
            refused += [(rank_side.call, ("report_progress", "half"))]
        if not refused:
            pytest.skip("abort and progress are declared")
        job.join()
        for function, arguments in refused:
            error = job.refusal(0, function, *arguments)
            if not isinstance(error, BarrierUsageError):
                job.violated(f"{function.__name__}{arguments} is no BarrierUsageError", error)
