"""Any barrier of barrier-core as the ``barrier_config`` of torch_checkpointing's writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from torch_checkpointing.barriers import Barrier as TheirBarrier
from torch_checkpointing.barriers import BarrierConfig as TheirBarrierConfig
from torch_checkpointing.types import RankInfo as TheirRankInfo

from barrier_core import BarrierConfig, BarrierConfigError, RankInfo, create_barrier_from_config


@dataclass
class AnyBarrierConfig(TheirBarrierConfig):
    """Makes the barrier that ``config`` names, on every rank that writes."""

    config: BarrierConfig = field(default_factory=BarrierConfig)
    # Theirs for every barrier. Ours have it among their own arguments, where they need it.
    timeout_barrier_init_sec: int = field(default=0, init=False)

    def create_barrier(self, rank_info: TheirRankInfo) -> TheirBarrier:
        """Called by their writer, possibly in a subprocess."""
        ours = RankInfo(rank_info.role_rank, rank_info.role_world_size)
        barrier = create_barrier_from_config(self.config, ours)
        if barrier is None:
            raise BarrierConfigError("without a barrier_type, half a checkpoint may be committed")
        return cast(TheirBarrier, barrier)  # it has their execute_barrier(timeout_secs)
