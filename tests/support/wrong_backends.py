"""Six backends that are wrong on purpose, and the conformance suite for each.

The file's name keeps pytest from collecting it by itself: `test_wrong_on_purpose.py` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest

from barrier_core.agreement.round_log import parse
from barrier_core.backends import local
from barrier_core.backends.local import LocalBarrier, LocalClient
from barrier_core.errors import BarrierFailedError, BarrierTimeoutError, failure
from barrier_core.testing import BarrierContract, MakeBarrier, RankSpec


class ReleasesEarly(LocalBarrier):
    """Rank 1 tells the others that it is there, and waits for nobody."""

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        if self.rank_info.global_rank != 1:
            return super()._wait(number, timeout_secs, tag)
        self._client.arrive(self._keys.series(1, self.rank_info.global_world_size, tag), number)
        return None


class OneRankTooFewClient(LocalClient):
    """Releases the round when all but one have come."""

    def wait(self, timeout_secs: float) -> bool:
        log, world_size = self._waits_for

        def enough() -> bool:
            arrivals = parse(self._store.values.get(log, b"")).arrivals
            return len(arrivals) >= max(world_size - 1, 1)

        with self._store.lock:
            self._store.changed.wait_for(lambda: enough() or self._wake_up.called(), timeout_secs)
            self._wake_up.clear()
            return enough()


class OneRankTooFew(LocalBarrier):
    """Counts from zero where it should from one."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # handed on as they come
        self._rounds.client = OneRankTooFewClient(local.STORE)


class IgnoresTheTimeout(LocalBarrier):
    """Takes a time limit and waits as long as it likes, as torch's TCPStoreBarrier does."""

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        super()._wait(number, 60.0, tag)


class SplitsTheVerdict(LocalBarrier):
    """Each rank goes by its own clock: whoever's time is up says so for itself."""

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        try:
            super()._wait(number, timeout_secs, tag)
        except BarrierTimeoutError as error:
            raise BarrierTimeoutError(
                replace(error.verdict, rank=self.rank_info.global_rank)
            ) from None


class LeaksKeys(LocalBarrier):
    """Leaves every round's keys in the store."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # handed on as they come
        self._watcher.remove = lambda rounds: None  # type: ignore[method-assign]


class NamesTheWrongRank(LocalBarrier):
    """Counts ranks from one where everybody else does from zero."""

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        try:
            super()._wait(number, timeout_secs, tag)
        except BarrierFailedError as error:
            missing = [replace(status, rank=status.rank + 1) for status in error.verdict.missing]
            raise failure(replace(error.verdict, missing=tuple(missing))) from None


class _Contract(BarrierContract):
    ranks_are = "threads"
    patience_secs = 3.0

    @pytest.fixture
    def make_barrier(self) -> MakeBarrier:
        def make(spec: RankSpec) -> LocalBarrier:
            assert issubclass(self.backend, LocalBarrier)
            return self.backend(
                spec.rank,
                spec.world_size,
                barrier_prefix=spec.name,
                generation=spec.generation,
                timeout_secs=spec.timeout_secs,
                warn_after_secs=spec.warn_after_secs,
            )

        return make

    @pytest.fixture
    def count_keys(self) -> Callable[[], int]:
        return lambda: len(local.STORE.values)


class TestReleasesEarly(_Contract):
    backend = ReleasesEarly


class TestOneRankTooFew(_Contract):
    backend = OneRankTooFew
    # Its constructor takes anything, which is a fault as well, but not the one that is meant here.
    left_out: ClassVar = {"test_the_class_says_what_it_is": "it hides its options, to be short"}


class TestIgnoresTheTimeout(_Contract):
    backend = IgnoresTheTimeout


class TestSplitsTheVerdict(_Contract):
    backend = SplitsTheVerdict


class TestLeaksKeys(_Contract):
    backend = LeaksKeys
    left_out: ClassVar = {"test_the_class_says_what_it_is": "it hides its options, to be short"}


class TestNamesTheWrongRank(_Contract):
    backend = NamesTheWrongRank
