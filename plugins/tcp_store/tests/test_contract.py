"""The ``tcp_store`` backend conforms; its ranks are processes, its store outlives them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from barrier_core.testing import BarrierContract, MakeBarrier, RankSpec
from barrier_tcp_store import TCPStoreBarrier
from plugins.tcp_store.tests.conftest import StoreProcess
from plugins.tcp_store.tests.rank_functions import Job


def make(port: int, spec: RankSpec) -> TCPStoreBarrier:
    job = Job(spec.name, spec.world_size, agent_port=port, generation=spec.generation)
    return job.make(
        spec.rank,
        timeout_secs=spec.timeout_secs,
        warn_after_secs=spec.warn_after_secs,
        job_id=spec.job_id,
    )


class TestTCPStore(BarrierContract):
    backend = TCPStoreBarrier
    ranks_are = "processes"

    @pytest.fixture
    def make_barrier(self, libuv_port: int) -> MakeBarrier:
        return functools.partial(make, libuv_port)

    @pytest.fixture
    def count_keys(self, store_process: StoreProcess, libuv_port: int) -> Callable[[], int]:
        return lambda: store_process.count_keys(libuv_port)

    @pytest.fixture
    def empty_store(self, store_process: StoreProcess, libuv_port: int) -> Callable[[], None]:
        return lambda: store_process.restart(libuv_port)
