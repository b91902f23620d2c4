"""Backends of threads that are wrong on purpose, and the conformance suite for each.

The file's name keeps pytest from collecting it by itself: `test_wrong_on_purpose.py` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import pytest
from msgspec.structs import replace as replace_field

from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.keys import Series
from barrier_core.agreement.round_log import arrival_record, parse, passed
from barrier_core.agreement.store import StoreAccess
from barrier_core.backends.local import STORE, LocalBarrier, LocalClient
from barrier_core.capability import Capability
from barrier_core.errors import BarrierFailedError, BarrierTimeoutError, failure
from barrier_core.options import (
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    BarrierPrefix,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    JobId,
    TimeoutSecs,
    WarnAfterSecs,
)
from barrier_core.testing import BarrierContract, MakeBarrier, RankSpec


class _OnWrongClient(StoreBarrier):
    """What `LocalBarrier` is, but for its client."""

    barrier_type = "local"
    capabilities: ClassVar[Capability] = LocalBarrier.capabilities
    client: ClassVar[type[LocalClient]]

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        barrier_prefix: BarrierPrefix = "barrier",
        generation: Generation = None,
        timeout_secs: TimeoutSecs = DEFAULT_TIMEOUT_SECS,
        warn_after_secs: WarnAfterSecs = DEFAULT_WARN_AFTER_SECS,
        job_id: JobId = None,
    ) -> None:
        super().__init__(
            global_rank,
            global_world_size,
            store=StoreAccess("store of this process", lambda: self.client(STORE)),
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=0.0,
            progress_extends_deadline=False,
            job_id=job_id,
        )


class _ImpatientClient(LocalClient):
    """Rank 1 tells the others that it is there, and waits for nobody."""

    _waits = True

    def arrive(self, series: Series, number: int) -> None:
        self._waits = series.record != arrival_record(1, series.tag)
        super().arrive(series, number)

    def wait(self, timeout_secs: float) -> bool:
        return super().wait(timeout_secs) if self._waits else True


class ReleasesEarly(_OnWrongClient):
    """One of its ranks does not wait."""

    client = _ImpatientClient


class _OneRankTooFewClient(LocalClient):
    """Releases the round when all but one have come."""

    _log = ""
    _enough = 0

    def arrive(self, series: Series, number: int) -> None:
        self._log = series.keys(number).log
        self._enough = max(series.world_size - 1, 1)
        super().arrive(series, number)

    def wait(self, timeout_secs: float) -> bool:
        def released() -> bool:
            return len(parse(STORE.values.get(self._log, b"")).arrivals) >= self._enough

        with STORE.lock:
            return STORE.changed.wait_for(released, timeout_secs)


class OneRankTooFew(_OnWrongClient):
    """Counts from zero where it should from one."""

    client = _OneRankTooFewClient


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


class _LeakingClient(LocalClient):
    """Removes nothing."""

    def remove(self, keys: Iterable[str]) -> None:
        pass


class LeaksKeys(_OnWrongClient):
    """Leaves every round's keys in the store."""

    client = _LeakingClient


class NamesTheWrongRank(LocalBarrier):
    """Counts ranks from one where everybody else does from zero."""

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        try:
            super()._wait(number, timeout_secs, tag)
        except BarrierFailedError as error:
            missing = [replace(status, rank=status.rank + 1) for status in error.verdict.missing]
            raise failure(replace(error.verdict, missing=tuple(missing))) from None


class _TrustingClient(LocalClient):
    """Takes a missing log for one that nobody has come to yet."""

    def wait(self, timeout_secs: float) -> bool:
        log, world_size = self._waits_for
        with STORE.lock:
            STORE.changed.wait_for(
                lambda: passed(STORE.values.get(log, b""), world_size) or self._wake_up.called(),
                timeout_secs,
            )
            self._wake_up.clear()
            return passed(STORE.values.get(log, b""), world_size)


class PassesInAnEmptiedStore(_OnWrongClient):
    """Does not look whether its store is still the one that it has joined."""

    client = _TrustingClient


class AbortsAlone(LocalBarrier):
    """Tells nobody that a rank has aborted."""

    def _abort(self, reason: str, round: int | None = None) -> None:
        pass


class _TaglessClient(LocalClient):
    """Leaves the tag out of a rank's record."""

    def arrive(self, series: Series, number: int) -> None:
        (arrival,) = parse(series.record).arrivals
        super().arrive(replace_field(series, record=arrival_record(arrival.rank, "")), number)


class LetsAllTagsPass(_OnWrongClient):
    """Takes a tag for a remark."""

    client = _TaglessClient


class _Contract(BarrierContract):
    ranks_are = "threads"
    patience_secs = 3.0

    @pytest.fixture
    def make_barrier(self) -> MakeBarrier:
        def make(spec: RankSpec) -> StoreBarrier:
            assert issubclass(self.backend, (LocalBarrier, _OnWrongClient))
            return self.backend(
                spec.rank,
                spec.world_size,
                barrier_prefix=spec.name,
                generation=spec.generation,
                timeout_secs=spec.timeout_secs,
                warn_after_secs=spec.warn_after_secs,
                job_id=spec.job_id,
            )

        return make

    @pytest.fixture
    def count_keys(self) -> Callable[[], int]:
        return lambda: len(STORE.values)

    @pytest.fixture
    def empty_store(self) -> Callable[[], None]:
        return STORE.values.clear


class TestReleasesEarly(_Contract):
    backend = ReleasesEarly


class TestOneRankTooFew(_Contract):
    backend = OneRankTooFew


class TestIgnoresTheTimeout(_Contract):
    backend = IgnoresTheTimeout


class TestSplitsTheVerdict(_Contract):
    backend = SplitsTheVerdict


class TestLeaksKeys(_Contract):
    backend = LeaksKeys


class TestNamesTheWrongRank(_Contract):
    backend = NamesTheWrongRank


class TestPassesInAnEmptiedStore(_Contract):
    backend = PassesInAnEmptiedStore


class TestAbortsAlone(_Contract):
    backend = AbortsAlone


class TestLetsAllTagsPass(_Contract):
    backend = LetsAllTagsPass
