"""The collective that our ``dist_barrier`` calls on gloo, bare."""

from __future__ import annotations

from datetime import timedelta

from benchmarks.contender import TIMEOUT_SECS
from benchmarks.group import GroupContender


class DistCollectiveContender(GroupContender):
    """What `dist_barrier` costs without the framework around it."""

    title = "dist_barrier's collective (bare)"
    needs = ("torch", "barrier_dist_barrier")

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        super().__init__(rank, world_size, port)
        from barrier_dist_barrier.barrier import _choose_collective

        self._collective = _choose_collective(self.dist, self.dist.group.WORLD)

    def wait(self) -> None:
        self._collective(timedelta(seconds=TIMEOUT_SECS))


CONTENDER = DistCollectiveContender
