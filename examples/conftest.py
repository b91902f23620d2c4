from __future__ import annotations

import pytest

from barrier_core.testing.rank_processes import RankProcesses
from tests.support.torch_ranks import shared_ranks


@pytest.fixture
def ranks() -> RankProcesses:
    """Four real ranks."""
    return shared_ranks()
