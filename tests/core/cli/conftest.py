"""A backend to tell of, and the command where nothing else is installed."""

from __future__ import annotations

import pytest

from tests.core.conftest import Site
from tests.support.command import Command

TALKATIVE = """
from typing import Annotated, Any
from msgspec import Meta
from barrier_core.capability import Capability
from barrier_core.contract import Barrier
from barrier_core.options import GlobalRank, GlobalWorldSize

print("a plugin that talks while it is imported")

class Backend(Barrier):
    '''A barrier over [nothing] at all:
    it never waits.

    The rest is for those who read on.
    '''

    barrier_type = "alpha"
    capabilities = Capability.TIMEOUT | Capability.BOUNDED_STATE

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        address: Annotated[str, Meta(description="where the [store] is")],
        timeout_secs: Annotated[float, Meta(description="hard limit in seconds")] = 600.0,
        place: Any = object,
    ) -> None:
        super().__init__(global_rank, global_world_size, timeout_secs)

    def _wait(self, number, timeout_secs, tag):
        pass
"""


@pytest.fixture
def barrier(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, globally: Site
) -> Command:
    """The command, where only what is in the site is installed."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    globally.install("barrier-alpha", {"alpha": "alpha:Backend"}, "1.2", {"alpha": TALKATIVE})
    return Command(capsys)
