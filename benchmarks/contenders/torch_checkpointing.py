"""The ``TCPStoreBarrier`` of Meta's distribution ``torch_checkpointing``."""

from __future__ import annotations

from unittest import mock

from benchmarks.contender import HOST, TIMEOUT_SECS, Contender, connect_tcp_store


class TorchCheckpointingContender(Contender):
    """As it is, but for its server: that one has a process of its own, as everybody's has."""

    title = "torch_checkpointing"
    needs = ("torch", "torch_checkpointing")

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        import torch.distributed as dist
        from torch_checkpointing.barriers import TCPStoreBarrierConfig
        from torch_checkpointing.types import RankInfo

        client = connect_tcp_store(port)
        config = TCPStoreBarrierConfig(
            timeout_barrier_init_sec=TIMEOUT_SECS,
            use_checkpoint_barrier_tcpstore_libuv=True,
            tcpstore_port=port,
            master_address=HOST,
        )
        with mock.patch.object(dist, "TCPStore", return_value=client):
            self._barrier = config.create_barrier(RankInfo(rank, world_size, rank, world_size))
            # Ranks other than 0 connect in their first round.
            self._barrier.execute_barrier(TIMEOUT_SECS)

    def wait(self) -> None:
        self._barrier.execute_barrier(TIMEOUT_SECS)


CONTENDER = TorchCheckpointingContender
