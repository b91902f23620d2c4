"""The barriers that are measured side by side, each in a file of its own."""

from __future__ import annotations

import importlib

from benchmarks.contender import Contender

NAMES = (
    "tcp_store",
    "telemetry_at_rest",
    "telemetry",
    "tcp_store_verified",
    "seed",
    "torch_checkpointing",
    "store_barrier",
    "raw_socket",
    "dist_barrier",
    "dist_collective",
    "gloo_barrier",
    "monitored_barrier",
    "jax",
    "mpi",
)
"""The modules of this package that have a contender, in the order of the reports."""

SEED = "seed"
LIMIT = "raw_socket"
BY_NAME = "backend:"
"""What the name of a contender begins with that ``--backend`` names."""


def find(name: str) -> type[Contender]:
    """Return the contender of a module of this package, or the backend that has been named."""
    module = "by_name" if name.startswith(BY_NAME) else f"contenders.{name}"
    found: type[Contender] = importlib.import_module(f"benchmarks.{module}").CONTENDER
    return found
