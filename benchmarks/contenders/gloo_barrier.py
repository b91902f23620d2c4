"""``torch.distributed.barrier`` on gloo."""

from __future__ import annotations

from benchmarks.group import GroupContender


class GlooBarrierContender(GroupContender):
    """What torch's own ``DistBarrier`` calls."""

    title = "gloo dist.barrier"

    def wait(self) -> None:
        self.dist.barrier()


CONTENDER = GlooBarrierContender
