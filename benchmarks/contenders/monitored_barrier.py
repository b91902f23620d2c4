"""``torch.distributed.monitored_barrier`` on gloo."""

from __future__ import annotations

from datetime import timedelta

from benchmarks.contender import TIMEOUT_SECS
from benchmarks.group import GroupContender


class MonitoredBarrierContender(GroupContender):
    """Rank 0 names the first rank that is missing."""

    title = "gloo monitored_barrier"

    def wait(self) -> None:
        self.dist.monitored_barrier(timeout=timedelta(seconds=TIMEOUT_SECS))


CONTENDER = MonitoredBarrierContender
