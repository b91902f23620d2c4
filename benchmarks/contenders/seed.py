"""The seed: the ``TCPStoreBarrier`` of ``torch.distributed.checkpoint._experimental``."""

from __future__ import annotations

from unittest import mock

from benchmarks.contender import HOST, TIMEOUT_SECS, Contender, connect_tcp_store


class SeedContender(Contender):
    """As it is, but for its server: that one has a process of its own, as everybody's has."""

    title = "seed (torch _experimental)"
    needs = ("torch",)

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        import torch.distributed as dist
        from torch.distributed.checkpoint._experimental.barriers import TCPStoreBarrier

        client = connect_tcp_store(port)
        with mock.patch.object(dist, "TCPStore", return_value=client):
            self._barrier = TCPStoreBarrier(
                rank, world_size, "benchmark", TIMEOUT_SECS, True, port, HOST, TIMEOUT_SECS
            )

    def wait(self) -> None:
        self._barrier.execute_barrier()


CONTENDER = SeedContender
