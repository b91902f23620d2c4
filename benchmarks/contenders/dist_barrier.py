"""Our ``dist_barrier``, on gloo."""

from __future__ import annotations

from barrier_core import create_barrier
from benchmarks.contender import TIMEOUT_SECS
from benchmarks.group import GroupContender


class DistBarrierContender(GroupContender):
    """To be compared with `dist_collective`, which is the collective that it calls."""

    title = "dist_barrier (ours, gloo)"
    needs = ("torch", "barrier_dist_barrier")

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        super().__init__(rank, world_size, port)
        self._barrier = create_barrier("dist_barrier", timeout_secs=TIMEOUT_SECS)

    def wait(self) -> None:
        self._barrier.execute_barrier()

    def leave(self) -> None:
        self._barrier.close()
        super().leave()


CONTENDER = DistBarrierContender
