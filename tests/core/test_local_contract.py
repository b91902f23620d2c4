"""The ``local`` backend conforms; its ranks are threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from barrier_core.backends import local
from barrier_core.backends.local import LocalBarrier
from barrier_core.testing import BarrierContract, MakeBarrier, RankSpec


def make(spec: RankSpec) -> LocalBarrier:
    return LocalBarrier(
        spec.rank,
        spec.world_size,
        barrier_prefix=spec.name,
        generation=spec.generation,
        timeout_secs=spec.timeout_secs,
        warn_after_secs=spec.warn_after_secs,
        job_id=spec.job_id,
    )


class TestLocal(BarrierContract):
    backend = LocalBarrier
    ranks_are = "threads"

    @pytest.fixture
    def make_barrier(self) -> MakeBarrier:
        return make

    @pytest.fixture
    def count_keys(self) -> Callable[[], int]:
        return lambda: len(local.STORE.values)

    @pytest.fixture
    def empty_store(self) -> Callable[[], None]:
        return local.STORE.values.clear
