"""Every fault of the soak test once, at a random moment; `make soak` runs for ten minutes."""

from __future__ import annotations

import pytest

from barrier_core import BarrierConfigError
from barrier_core.capability import Capability
from tests.soak import soak
from tests.support.by_name import NamedBackend
from tests.support.soak.faults import FAULTS, possible


@pytest.mark.timeout(180)
def test_all_guarantees_hold_under_every_fault() -> None:
    tally = soak(times=1, quiet=True)
    assert set(tally.faults) == set(FAULTS)


def test_a_backend_is_tested_for_what_it_declares() -> None:
    assert possible(Capability.NONE, False) == ["none", "fork", "stop for a moment"]
    assert "sleep" in possible(Capability.TIMEOUT, False)
    assert possible(~Capability.NONE, True) == list(FAULTS)


def test_a_backend_between_threads_is_refused() -> None:
    with pytest.raises(BarrierConfigError, match="threads of one process"):
        soak(backend=NamedBackend("local"))
