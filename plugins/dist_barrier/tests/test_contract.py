"""The ``dist_barrier`` backend conforms on gloo, in what it declares; its ranks are processes."""

from __future__ import annotations

import functools
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from barrier_core.testing import BarrierContract, MakeBarrier, RankSpec
from barrier_dist_barrier import DistBarrier


def make(folder: Path, spec: RankSpec) -> DistBarrier:
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]  # it is public

    if dist.is_initialized():  # the group of the test before
        dist.destroy_process_group()
    dist.init_process_group(
        "gloo",
        store=FileStore(str(folder / spec.name), spec.world_size),
        rank=spec.rank,
        world_size=spec.world_size,
        timeout=timedelta(seconds=30),
    )
    return DistBarrier(spec.timeout_secs)


class TestDistBarrier(BarrierContract):
    backend = DistBarrier
    ranks_are = "processes"
    world_size = 3
    left_out: ClassVar = {
        "test_an_impossible_rank_is_refused": "rank and world size are the process group's"
    }

    @pytest.fixture
    def make_barrier(self, tmp_path: Path) -> MakeBarrier:
        return functools.partial(make, tmp_path)
