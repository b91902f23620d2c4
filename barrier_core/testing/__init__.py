"""What a backend is tested with: a conformance suite, and rank processes that can be killed.

Importing this package imports neither pytest nor the suite; asking it for `BarrierContract` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from barrier_core.testing.conformance import BarrierContract
    from barrier_core.testing.rank_side import MakeBarrier, Place

__all__ = ["BarrierContract", "MakeBarrier", "Place"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "BarrierContract":
        from barrier_core.testing import conformance as module
    else:
        from barrier_core.testing import rank_side as module  # type: ignore[no-redef]
    return getattr(module, name)
