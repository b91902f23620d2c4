"""How much the tests do: enough to prove the point, or all that there is (`make test-all`)."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

EXHAUSTIVE = os.environ.get("EXHAUSTIVE_TESTS") == "1"


def size(usual: T, exhaustive: T) -> T:
    """Return what a test is to use: the first for `make test`, the second for `make test-all`."""
    return exhaustive if EXHAUSTIVE else usual
