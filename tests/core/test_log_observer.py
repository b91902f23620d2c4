"""The line that a waiting job writes."""

from __future__ import annotations

import pytest

from barrier_core import BarrierTimeoutError, create_barrier
from barrier_core.testing.rank_threads import run_in_threads


def test_one_rank_logs_who_is_missing_where_it_runs_and_what_it_did(
    caplog: pytest.LogCaptureFixture,
) -> None:
    barriers = [
        create_barrier(
            "local",
            global_rank=rank,
            global_world_size=3,
            barrier_prefix="log-observer",
            warn_after_secs=0.4,
            timeout_secs=2,
        )
        for rank in range(3)
    ]
    barriers[2].report_progress("shard 12/40")

    def wait(rank: int) -> None:
        with pytest.raises(BarrierTimeoutError):
            barriers[rank].execute_barrier(tag="save step=1200")

    run_in_threads(wait, range(2))
    for barrier in barriers:
        barrier.close()

    lines = [record for record in caplog.records if "waits for" in record.getMessage()]
    assert {record.name for record in lines} == {"barrier_core"}
    # At widening intervals, and by one of the two ranks that wait.
    assert 1 <= len(lines) <= 3
    assert "round 1 'save step=1200' waits for 1 of 3 ranks: rank 2 (" in lines[0].getMessage()
    assert 'last progress "shard 12/40"' in lines[0].getMessage()
