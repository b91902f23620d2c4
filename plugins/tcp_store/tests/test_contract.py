"""The ``tcp_store`` backend conforms; its ranks are processes, its store outlives them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from barrier_core.testing import BarrierContract, MakeBarrier, Place
from barrier_tcp_store import TCPStoreBarrier
from plugins.tcp_store.tests.conftest import StoreProcess
from plugins.tcp_store.tests.rank_side import Job


def make(port: int, place: Place) -> TCPStoreBarrier:
    job = Job(place.name, place.world_size, agent_port=port, generation=place.generation)
    return job.make(
        place.rank, timeout_secs=place.timeout_secs, warn_after_secs=place.warn_after_secs
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
