"""What a backend is tested with: a conformance suite, and ranks as threads or processes.

Importing this package imports neither pytest nor the suite; asking it for `BarrierContract` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from barrier_core.testing.conformance import BarrierContract
    from barrier_core.testing.rank_processes import RankProcesses
    from barrier_core.testing.rank_spec import MakeBarrier, RankSpec
    from barrier_core.testing.rank_threads import RankThreads

_MODULES = {
    "BarrierContract": "conformance",
    "MakeBarrier": "rank_spec",
    "RankProcesses": "rank_processes",
    "RankSpec": "rank_spec",
    "RankThreads": "rank_threads",
}

__all__ = ["BarrierContract", "MakeBarrier", "RankProcesses", "RankSpec", "RankThreads"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)
