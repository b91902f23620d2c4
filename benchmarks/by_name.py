"""The installed backend that ``--backend`` names, so that its author can compare it."""

from __future__ import annotations

import uuid

from barrier_core import BarrierConfig, BarrierError
from benchmarks.contender import TIMEOUT_SECS, Contender
from tests.support.by_name import NamedBackend


def _chosen() -> NamedBackend:
    """Return the backend that is named in the environment, which rank processes inherit."""
    config = BarrierConfig.from_environment()
    return NamedBackend(config.barrier_type or "", config.barrier_args)


class NamedContender(Contender):
    """Made as a job makes it. Where its ranks need a server, ``--argument`` says where it is."""

    title = f"{_chosen().name} (--backend)"

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self._barrier = _chosen().make(
            rank,
            world_size,
            f"benchmark-{port}",
            "0",
            barrier_prefix="benchmark",
            timeout_secs=TIMEOUT_SECS,
        )

    @classmethod
    def obstacle(cls) -> str | None:
        try:
            _chosen().check()
        except BarrierError as error:
            return str(error)
        return None

    @classmethod
    def serve(cls, world_size: int) -> int:
        return uuid.uuid4().int  # tells this world from the ones before

    def wait(self) -> None:
        self._barrier.execute_barrier()

    def leave(self) -> None:
        self._barrier.close()


CONTENDER = NamedContender
