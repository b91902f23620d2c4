"""Standard tests of signal handlers, which may run between any two steps of a rank."""

from __future__ import annotations

import pytest

from barrier_core.capability import Capability
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import Suite, needs, processes_only

_SIGNALS = 60


class SignalTests(Suite):
    """What a signal handler does in the midst of a round."""

    @needs(Capability.ABORT, Capability.PROGRESS)
    @processes_only
    @pytest.mark.parametrize("does", ["raises", "aborts"])
    def test_a_signal_handler_may_run_at_any_moment(self, job: Job, does: str) -> None:
        """One that raises breaks its round or none, one that aborts breaks its round or the next.

        The answer to a question that was cut short must not be taken for that to the next one.
        """
        spec = job.spec(0, world_size=1)
        call = job.ranks.start(
            0, rank_side.go_through_signals, job.factory, spec, does == "raises", _SIGNALS
        )
        error = job.error_of(0, call, f"rounds in which a signal handler {does}")
        if error is not None:
            job.violated(f"after a signal handler {does}, the rank alone in its world", error)
