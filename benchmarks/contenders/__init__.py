"""The barriers that are measured side by side, each in a file of its own."""

from __future__ import annotations

import importlib

from benchmarks.contender import Contender

NAMES = (
    "tcp_store",
    "telemetry_at_rest",
    "telemetry",
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


def find(name: str) -> type[Contender]:
    """Return the contender of a module of this package."""
    found: type[Contender] = importlib.import_module(f"benchmarks.contenders.{name}").CONTENDER
    return found
