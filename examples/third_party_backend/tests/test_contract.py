"""The ``file`` barrier conforms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from barrier_file import FileBarrier

from barrier_core.testing import BarrierContract, MakeBarrier, RankSpec


def make(directory: Path, spec: RankSpec) -> FileBarrier:
    return FileBarrier(
        spec.rank,
        spec.world_size,
        str(directory),
        barrier_prefix=spec.name,
        generation=spec.generation,
        timeout_secs=spec.timeout_secs,
        warn_after_secs=spec.warn_after_secs,
        job_id=spec.job_id,
    )


class TestFileBarrier(BarrierContract):
    backend = FileBarrier
    ranks_are = "processes"
    left_out: ClassVar = {
        "test_a_rank_killed_on_another_machine_breaks_the_round": "it is for ranks of one host"
    }

    @pytest.fixture
    def make_barrier(self, tmp_path: Path) -> MakeBarrier:
        return functools.partial(make, tmp_path)

    @pytest.fixture
    def count_keys(self, tmp_path: Path) -> Callable[[], int]:
        return lambda: len(list(tmp_path.iterdir()))

    @pytest.fixture
    def empty_store(self, tmp_path: Path) -> Callable[[], None]:
        def remove_all() -> None:
            for path in tmp_path.iterdir():
                path.unlink(missing_ok=True)

        return remove_all
