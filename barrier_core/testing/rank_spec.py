"""What a rank is told to make, and the function that makes it."""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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
    job_id: str | None = None
    """What backends call ``job_id``."""

    @property
    def key(self) -> str:
        """Where a rank keeps this barrier."""
        return f"{self.name} {self.generation} {self.job_id}"


MakeBarrier = Callable[[RankSpec], Barrier]
"""Makes one rank's barrier, in that rank. Picklable where ranks are processes."""


class Factory:
    """A `MakeBarrier` on its way to a rank.

    A test module need not be importable by its name in a fresh process: where its file is, or its
    package, is then searched as well.
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
            # What holds the module, or the outermost package that it is in.
            sys.path.append(str(Path(self._file).resolve().parents[self._module.count(".")]))
            importlib.import_module(self._module)
        make: MakeBarrier = pickle.loads(self._pickled)
        return make
