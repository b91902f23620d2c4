"""Ranks that write traces to a disk that freezes: rounds pass, and fail, in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from barrier_core import BarrierTimeoutError
from barrier_core.hooks import plugin_manager
from barrier_core.observers.trace_format import SUFFIX, FailedRound, Line, PassedRound
from barrier_core.observers.trace_observer import TraceObserver
from barrier_core.testing.rank_processes import RankProcesses, state
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import SOON_SECS
from plugins.tcp_store.tests.rank_functions import Job, close, go_through, join
from tests.support.disks import Disk, mounted_disk

LIMIT_SECS = 0.5


@pytest.fixture
def disk(ranks: RankProcesses, tmp_path: Path) -> Iterator[Disk]:
    """A disk, which is thawed before the ranks are asked to end."""
    with mounted_disk(tmp_path) as disk:
        yield disk
        disk.thaw()
        ranks.run_all(stop_observing)


def observe(rank: int, folder: Path) -> None:
    state["trace"] = TraceObserver(folder)
    plugin_manager.register(state["trace"])


def flush(rank: int, timeout_secs: float) -> bool:
    trace: TraceObserver = state["trace"]
    return trace.flush(timeout_secs)


def stop_observing(rank: int) -> None:
    trace = state.pop("trace", None)
    if trace is not None:
        plugin_manager.unregister(trace)
        trace.close()


def time_out(rank: int, job: Job) -> float:
    """Go into a round to which not all come; return how long it took to end."""
    started = time.monotonic()
    with pytest.raises(BarrierTimeoutError):
        state[job.prefix].execute_barrier(timeout_secs=LIMIT_SECS)
    return time.monotonic() - started


def test_a_frozen_trace_folder_delays_no_round(
    ranks: RankProcesses, disk: Disk, new_job: NewJob
) -> None:
    first, second = new_job(), new_job()
    traces = disk.path / "traces"
    ranks.run_all(observe, traces)
    ranks.run_all(join, first)
    ranks.run_all(go_through, first, 3)
    assert all(ranks.run_all(flush, SOON_SECS))

    disk.freeze()
    ranks.run_all(go_through, first, 3)
    ranks.run_all(close, first)
    ranks.run_all(join, second)
    took = [call.result() for call in ranks.start_all(time_out, second, ranks=[0, 1, 2])]
    assert not any(ranks.run_all(flush, 0.0))
    disk.thaw()
    ranks.run_all(stop_observing)

    # The limit itself may be exceeded on a busy machine; the disk would not have ended the round.
    assert max(took) < SOON_SECS
    for path in traces.glob(f"rank*{SUFFIX}"):
        lines = msgspec.json.Decoder(Line).decode_lines(path.read_bytes())
        passed = [line.round for line in lines if isinstance(line, PassedRound)]
        failed = [line.kind for line in lines if isinstance(line, FailedRound)]
        assert passed == [1, 2, 3, 4, 5, 6]
        assert failed == ([] if path.name.startswith("rank3-") else ["timeout"])
