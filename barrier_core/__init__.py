"""Barriers for distributed jobs: chosen by name, installed as plugins, honest about the outcome."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from barrier_core.capability import Capability
from barrier_core.config import BarrierConfig, create_barrier, create_barrier_from_config
from barrier_core.contract import CONTRACT_VERSION, Barrier
from barrier_core.discovery.registry import BARRIER_REGISTRY, register_barrier
from barrier_core.discovery.registry import registry as _registry
from barrier_core.errors import (
    BarrierConfigError,
    BarrierConnectionError,
    BarrierError,
    BarrierFailedError,
    BarrierPluginError,
    BarrierSetupError,
    BarrierTimeoutError,
    BarrierUsageError,
    BrokenBarrierError,
    RankConflictError,
    UnknownBarrierTypeError,
)
from barrier_core.hooks import hookimpl, plugin_manager
from barrier_core.launcher import RankInfo
from barrier_core.observers.slow_rounds import LogObserver
from barrier_core.verdict import RankStatus, Verdict
from barrier_core.version import __version__

if TYPE_CHECKING:
    DistBarrier: type[Barrier]
    TCPStoreBarrier: type[Barrier]

__all__ = [
    "BARRIER_REGISTRY",
    "CONTRACT_VERSION",
    "Barrier",
    "BarrierConfig",
    "BarrierConfigError",
    "BarrierConnectionError",
    "BarrierError",
    "BarrierFailedError",
    "BarrierPluginError",
    "BarrierSetupError",
    "BarrierTimeoutError",
    "BarrierUsageError",
    "BrokenBarrierError",
    "Capability",
    "RankConflictError",
    "RankInfo",
    "RankStatus",
    "UnknownBarrierTypeError",
    "Verdict",
    "__version__",
    "create_barrier",
    "create_barrier_from_config",
    "hookimpl",
    "register_barrier",
]

plugin_manager.register(LogObserver(), "observer log")
if os.environ.get("BARRIER_TRACE_DIR"):
    from barrier_core.observers.trace_observer import TraceObserver as _TraceObserver

    plugin_manager.register(_TraceObserver(os.environ["BARRIER_TRACE_DIR"]), "observer trace")

# torch has its two backends beside the contract. Here they are plugins: the names work where the
# plugin is installed, and importing this package still imports neither.
_SEED_NAMES = {"DistBarrier": "dist_barrier", "TCPStoreBarrier": "tcp_store"}


def __getattr__(name: str) -> Any:
    if name not in _SEED_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _registry.get(_SEED_NAMES[name])
    except UnknownBarrierTypeError as error:
        # An ImportError, which `from barrier_core import ...` shows with its remedy.
        raise BarrierPluginError(f"{name} is not installed: {error}") from error
