"""Standard tests of the store: what is left in it, for how long, and what if it forgets."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from barrier_core.capability import Capability
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.rank_side import SETTLE_SECS
from barrier_core.testing.conformance.suite import Suite, needs
from barrier_core.testing.rank_processes import wait_until
from barrier_core.testing.rank_spec import TEST_TIMEOUT_SECS

_MANY_ROUNDS = 400
"""Between two counts of keys. A store that leaks keeps one key per round at least."""


class StateTests(Suite):
    """The store does not fill up; it forgets nothing that is needed, or is lost."""

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

    # A store that forgets.

    @needs(Capability.TIMEOUT)
    def test_a_barrier_outlives_its_own_time_limit(self, job: Job) -> None:
        """A barrier works after a pause, and in a wait, of several times its ``timeout_secs``."""
        limit_secs = 0.1
        job.join(timeout_secs=limit_secs)
        job.pass_through(job.arrive(timeout_secs=TEST_TIMEOUT_SECS))
        early = job.arrive(job.but_last, timeout_secs=TEST_TIMEOUT_SECS)
        late = job.start(job.last, rank_side.visit, [5 * limit_secs], TEST_TIMEOUT_SECS, "")
        job.pass_through(early | {job.last: late})

    @needs(Capability.ONE_VERDICT)
    @pytest.mark.parametrize("when", ["between rounds", "while ranks wait"])
    def test_a_store_that_is_emptied_is_lost(
        self, job: Job, empty_store: Callable[[], object] | None, when: str
    ) -> None:
        """In a store that has forgotten the barrier no round passes, and nobody is blamed."""
        if empty_store is None:
            pytest.skip(
                "not checked: there is no fixture empty_store, which returns a function that has "
                "the store lose all it holds"
            )
        job.join()
        job.pass_through(job.arrive())
        waiting = job.arrive(job.but_last) if when == "while ranks wait" else {}
        if waiting:
            time.sleep(SETTLE_SECS)  # nothing tells of an unknown backend that it waits
        empty_store()
        arrivals = waiting | job.arrive([rank for rank in job.everyone if rank not in waiting])
        for rank, verdict in job.verdicts(arrivals).items():
            job.check(verdict.kind == "store", f"rank {rank} was told {verdict}, not a lost store")
