"""What a rank is told to make, and the function that makes it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from barrier_core.contract import Barrier

TEST_TIMEOUT_SECS = 60.0
"""The limit that no test is meant to reach."""


@dataclass(frozen=True)
class RankSpec:
    """Which barrier a rank is asked to make."""

    rank: int
    world_size: int
    name: str
    """Differs from test to test: what backends call ``barrier_prefix``."""
    generation: str = "0"
    """What backends call ``generation``."""
    timeout_secs: float = TEST_TIMEOUT_SECS
    warn_after_secs: float | None = None

    @property
    def key(self) -> str:
        """Where a rank keeps this barrier."""
        return f"{self.name} {self.generation}"


MakeBarrier = Callable[[RankSpec], Barrier]
"""Makes one rank's barrier, in that rank. Picklable where ranks are processes."""


class Factory:
    """A `MakeBarrier` on its way to a rank.

    A test module need not be importable by its name in a fresh process: it is then loaded from its
    file, before the function in it is unpickled.
    """

    def __init__(self, make: MakeBarrier) -> None:
        target: Any = make
        while isinstance(target, functools.partial):
            target = target.func
        if not hasattr(target, "__qualname__"):
            target = type(target)
        self._module = target.__module__
        self._file = getattr(sys.modules.get(self._module), "__file__", None)
        self._pickled = pickle.dumps(make)

    def load(self) -> MakeBarrier:
        """Return the function, in the rank."""
        try:
            importlib.import_module(self._module)
        except ImportError:
            if self._file is None:
                raise
            spec = importlib.util.spec_from_file_location(self._module, self._file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[self._module] = module
            spec.loader.exec_module(module)
        make: MakeBarrier = pickle.loads(self._pickled)
        return make
