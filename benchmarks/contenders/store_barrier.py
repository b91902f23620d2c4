"""torch's ``Store.barrier``, bare: one request, one answer, and nobody knows who is missing."""

from __future__ import annotations

from datetime import timedelta

from benchmarks.contender import TIMEOUT_SECS, Contender, connect_tcp_store


class StoreBarrierContender(Contender):
    """A key of its own for every round, as a key can be used once; they are never deleted."""

    title = "Store.barrier (bare)"
    needs = ("torch",)

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self._store = connect_tcp_store(port)
        self._world_size = world_size
        self._timeout = timedelta(seconds=TIMEOUT_SECS)
        self._round = 0

    @classmethod
    def obstacle(cls) -> str | None:
        obstacle = super().obstacle()
        if obstacle is None:
            from torch.distributed import (  # type: ignore[attr-defined]  # not in its __all__
                Store,
            )

            if not hasattr(Store, "barrier"):
                return "this torch has no Store.barrier"
        return obstacle

    def wait(self) -> None:
        self._round += 1
        self._store.barrier(f"round{self._round}", self._world_size, self._timeout)


CONTENDER = StoreBarrierContender
