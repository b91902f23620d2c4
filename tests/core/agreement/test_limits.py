"""Time limits of every size: each works, in a slow round too, or is refused when it is given."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barrier_core import BarrierConfigError
from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.store import StoreAccess
from barrier_core.agreement.wakeup import WakeUp
from barrier_core.backends.local import STORE, LocalClient
from tests.support.injected_stores import POLLING
from tests.support.local_ranks import LocalJob, arriving, wait_until
from tests.support.recording_backend import Recording

SECONDS = st.one_of(
    st.floats(), st.integers(), st.integers(min_value=10**300), st.booleans(), st.text(max_size=3)
)
LARGE = [2_147_484, 9.3e9, 1e18, sys.float_info.max, math.inf]
"""Just above what ``poll`` takes, above what a lock takes, above a clock's nanoseconds, ..."""
EITHER_STORE = pytest.mark.parametrize(
    "store", [pytest.param(None, id="blocks"), pytest.param(POLLING, id="is asked")]
)


def is_seconds(value: object) -> bool:
    """Whether a float holds the value, and it is finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # also false for nan


@given(SECONDS)
def test_a_hard_limit_is_positive_or_infinite(value: float) -> None:
    if value == math.inf or (is_seconds(value) and value > 0):
        barrier = Recording(timeout_secs=value)
        assert barrier.timeout_secs == float(value)
        barrier.execute_barrier(timeout_secs=value)
        assert barrier.asked == [("wait", 1, float(value), "")]
        return
    with pytest.raises(BarrierConfigError, match="timeout_secs="):
        Recording(timeout_secs=value)
    barrier = Recording()
    with pytest.raises(BarrierConfigError, match="timeout_secs="):
        barrier.execute_barrier(timeout_secs=value)
    assert barrier.asked == []


@given(SECONDS)
def test_a_soft_limit_is_positive_and_finite(value: float) -> None:
    if is_seconds(value) and value > 0:
        assert Recording(warn_after_secs=value).warn_after_secs == float(value)
        return
    with pytest.raises(BarrierConfigError, match="warn_after_secs="):
        Recording(warn_after_secs=value)


class AnyOptions(StoreBarrier):
    """A barrier whose options a test chooses."""

    barrier_type = "any-options"

    def __init__(self, *, heartbeat_secs: float = 0.0, linger_secs: float = 0.0) -> None:
        super().__init__(
            0,
            1,
            store=StoreAccess("store of this process", lambda: LocalClient(STORE)),
            barrier_prefix="any-options",
            generation="0",
            timeout_secs=60.0,
            warn_after_secs=None,
            heartbeat_secs=heartbeat_secs,
            progress_extends_deadline=False,
            linger_secs=linger_secs,
        )


@pytest.mark.parametrize("option", ["heartbeat_secs", "linger_secs"])
@settings(deadline=None, max_examples=50)
@given(value=SECONDS)
def test_other_seconds_are_finite_and_not_negative(option: str, value: float) -> None:
    if is_seconds(value) and value >= 0:
        with AnyOptions(**{option: value}) as barrier:
            barrier.execute_barrier()
        return
    with pytest.raises(BarrierConfigError, match=f"{option}="):
        AnyOptions(**{option: value})


def test_none_means_no_limit() -> None:
    barrier = Recording(timeout_secs=None)

    barrier.execute_barrier()
    barrier.execute_barrier(timeout_secs=5)
    barrier.execute_barrier(timeout_secs=None)

    assert barrier.asked == [
        ("wait", 1, math.inf, ""),
        ("wait", 2, 5, ""),
        ("wait", 3, math.inf, ""),
    ]


@EITHER_STORE
@pytest.mark.parametrize("seconds", LARGE)
def test_a_slow_round_of_a_large_limit_goes_on_until_the_last_rank_comes(
    job: LocalJob, store: StoreAccess | None, seconds: float
) -> None:
    barriers = job.barriers(2, store, timeout_secs=seconds)
    first = arriving(barriers[0])
    wait_until_looked_after(barriers[0])

    arriving(barriers[1]).pass_()
    first.pass_()


def wait_until_looked_after(barrier: StoreBarrier) -> None:
    """Wait until a rank's watcher has looked who is missing."""
    watcher = barrier._watcher

    def looked() -> bool:
        return watcher._slow is not None and watcher._slow.looked.is_set()

    wait_until(looked)


def test_the_soft_limit_reports_where_there_is_no_hard_one(job: LocalJob) -> None:
    barriers = job.barriers(2, timeout_secs=None, warn_after_secs=0.3)
    recorder = job.listen(barriers[0])
    first = arriving(barriers[0])

    wait_until(lambda: [event.hook for event in recorder.events[:2]] == ["enter", "waiting"])

    arriving(barriers[1]).pass_()
    first.pass_()


@settings(deadline=None)
@given(st.floats(min_value=0.0, allow_nan=False))
def test_a_rank_waits_to_be_woken_for_as_long_as_it_is_told(seconds: float) -> None:
    wake_up = WakeUp()
    wake_up.call()

    assert wake_up.wait(seconds)
