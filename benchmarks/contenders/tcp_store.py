"""Our ``tcp_store`` with all guarantees on."""

from __future__ import annotations

from typing import Any, ClassVar

from barrier_core import create_barrier
from benchmarks.contender import TIMEOUT_SECS, Contender, connect_tcp_store

TAG = "save step=1200"


class TCPStoreContender(Contender):
    """Heartbeats, names, verdicts, and a tag with every round."""

    title = "tcp_store (ours)"
    needs: ClassVar[tuple[str, ...]] = ("torch", "barrier_tcp_store")
    options: ClassVar[dict[str, Any]] = {}
    """Further arguments of the barrier."""

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self._barrier = create_barrier(
            "tcp_store",
            global_rank=rank,
            global_world_size=world_size,
            barrier_prefix=type(self).__name__,
            store=connect_tcp_store(port),
            generation=str(port),
            timeout_secs=TIMEOUT_SECS,
            heartbeat_secs=5.0,
            **self.options,
        )

    def wait(self) -> None:
        self._barrier.execute_barrier(tag=TAG)

    def leave(self) -> None:
        self._barrier.close()


CONTENDER = TCPStoreContender
