"""Standard tests of what is left in the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from barrier_core.capability import Capability
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.suite import Suite, needs
from barrier_core.testing.rank_processes import wait_until

_MANY_ROUNDS = 400
"""Between two counts of keys. A store that leaks keeps one key per round at least."""


class StateTests(Suite):
    """The store does not fill up."""

    # Bounded state.

    @needs(Capability.BOUNDED_STATE)
    def test_the_number_of_keys_does_not_grow_with_the_rounds(
        self, job: Job, count_keys: Callable[[], int] | None
    ) -> None:
        """The store holds a bounded number of keys however many rounds have run."""
        if count_keys is None:
            pytest.skip("not checked: there is no fixture count_keys")
        job.join()
        job.pass_through(job.arrive(rounds=_MANY_ROUNDS // 2))
        before = count_keys()
        job.pass_through(job.arrive(rounds=_MANY_ROUNDS))
        self._check_growth(job, count_keys, before, _MANY_ROUNDS, f"{_MANY_ROUNDS} rounds")

    @needs(Capability.BOUNDED_STATE, Capability.GENERATIONS)
    def test_the_number_of_keys_does_not_grow_with_the_generations(
        self, job: Job, count_keys: Callable[[], int] | None
    ) -> None:
        """The store holds a bounded number of keys however often the job was restarted."""
        if count_keys is None:
            pytest.skip("not checked: there is no fixture count_keys")
        before = 0
        for generation in range(12):
            if generation == 2:
                before = count_keys()
            job.join(generation=str(generation))
            job.pass_through(job.arrive(key=job.key(generation=str(generation))))
            job.leave()
        self._check_growth(job, count_keys, before, 10, "10 generations")

    def _check_growth(
        self, job: Job, count_keys: Callable[[], int], before: int, too_many: int, what: str
    ) -> None:
        def growth() -> int:
            return count_keys() - before

        with suppress(TimeoutError):
            # What is outdated may be removed a little later.
            wait_until(lambda: growth() < too_many, "keys are removed", min(self.patience_secs, 5))
            return
        job.violated(f"{what} have left {growth()} keys more than there were before ({before})")
