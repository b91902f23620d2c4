"""Every fault of the soak test once, at a random moment; `make soak` runs for ten minutes."""

from __future__ import annotations

import pytest

from tests.soak import soak
from tests.support.soak.faults import FAULTS


@pytest.mark.timeout(180)
def test_all_guarantees_hold_under_every_fault() -> None:
    tally = soak(times=1, quiet=True)
    assert set(tally.faults) == set(FAULTS)
