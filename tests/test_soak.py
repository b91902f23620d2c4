"""Half a minute of random faults; `make soak` runs ten."""

from __future__ import annotations

import pytest

from tests.soak import KINDS, soak


@pytest.mark.timeout(180)
def test_all_guarantees_hold_under_random_faults_for_half_a_minute() -> None:
    tally = soak(seconds=30, quiet=True)
    assert tally.generations > len(KINDS)
