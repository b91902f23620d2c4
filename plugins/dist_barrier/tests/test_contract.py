"""The ``dist_barrier`` backend conforms on gloo, in what it declares; its ranks are processes."""

from __future__ import annotations

import functools
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from barrier_core.testing import BarrierContract, MakeBarrier, Place
from barrier_dist_barrier import DistBarrier


def make(folder: Path, place: Place) -> DistBarrier:
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]  # it is public

    if dist.is_initialized():  # the group of the test before
        dist.destroy_process_group()
    dist.init_process_group(
        "gloo",
        store=FileStore(str(folder / place.name), place.world_size),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=30),
    )
    return DistBarrier(place.timeout_secs)


class TestDistBarrier(BarrierContract):
    backend = DistBarrier
    ranks_are = "processes"
    world_size = 3
    left_out: ClassVar = {
        "test_a_place_that_cannot_be_is_refused": "the place is that in the process group"
    }

    @pytest.fixture
    def make_barrier(self, tmp_path: Path) -> MakeBarrier:
        return functools.partial(make, tmp_path)
