"""Half a minute of random faults; `make soak` runs ten."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Rank processes import the soak by its full name.
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.soak import KINDS, soak


@pytest.mark.timeout(180)
def test_all_guarantees_hold_under_random_faults_for_half_a_minute() -> None:
    tally = soak(seconds=30, quiet=True)
    assert tally.generations > len(KINDS)
