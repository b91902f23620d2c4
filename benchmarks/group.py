"""The gloo process group that the contenders on torch.distributed share."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, ClassVar

from barrier_core.testing.rank_processes import state
from benchmarks.contender import TIMEOUT_SECS, Contender, connect_tcp_store


class GroupContender(Contender):
    """A contender on the default process group: made for the first one, ended with the last."""

    needs: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self.dist = _join(rank, world_size, port)

    def leave(self) -> None:
        state["users of the group"] -= 1
        if not state["users of the group"]:
            self.dist.destroy_process_group()


def _join(rank: int, world_size: int, port: int) -> Any:
    import torch.distributed as dist

    if not dist.is_initialized():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            "gloo",
            store=connect_tcp_store(port),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=TIMEOUT_SECS),
        )
    state["users of the group"] = state.get("users of the group", 0) + 1
    return dist
