"""The coordination service of JAX: ``wait_at_barrier`` over gRPC, from jaxlib alone."""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any

from barrier_core.testing.rank_processes import state
from benchmarks.contender import HOST, TIMEOUT_SECS, Contender


class JAXContender(Contender):
    """A name of its own for every round, as JAX asks for."""

    title = "JAX coordination service"
    needs = ("jaxlib",)

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self._client = _library().get_distributed_runtime_client(
            f"{HOST}:{port}", rank, init_timeout=TIMEOUT_SECS, shutdown_on_destruction=False
        )
        self._client.connect()
        self._round = 0

    @classmethod
    def obstacle(cls) -> str | None:
        obstacle = super().obstacle()
        if obstacle is None:
            try:
                _library()
            except Exception as error:
                return f"jaxlib cannot be used: {error}"
        return obstacle

    @classmethod
    def serve(cls, world_size: int) -> int:
        state.pop("jax", None)
        with socket.create_server((HOST, 0)) as taken:
            port: int = taken.getsockname()[1]
        state["jax"] = _library().get_distributed_runtime_service(f"{HOST}:{port}", world_size)
        return port

    def wait(self) -> None:
        self._round += 1
        self._client.wait_at_barrier(f"round{self._round}", TIMEOUT_SECS * 1000)

    def leave(self) -> None:
        self._client.shutdown()
        self._client = None


def _library() -> Any:
    """Return jaxlib's native module; it has no public name for what ``jax.distributed`` uses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or it logs every round
    try:
        return importlib.import_module("jaxlib._jax")
    except ImportError:
        return importlib.import_module("jaxlib.xla_extension")


CONTENDER = JAXContender
