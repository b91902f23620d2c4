"""Signal handlers run between any two steps of the main thread; a barrier survives each."""

from __future__ import annotations

import uuid

import pytest

from barrier_core import Barrier
from barrier_core.backends.local import LocalBarrier
from barrier_core.testing.signal_injection import (
    SignalInjector,
    abort_in_rounds,
    raise_in_rounds,
    raise_injected,
)

SIGNALS = 1500

pytestmark = [
    # SIGALRM is the injector's.
    pytest.mark.timeout(120, method="thread"),
    # Python ignores what a handler raises in a destructor, and says so.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Alone(Barrier):
    """A backend for one rank, which never waits."""

    barrier_type = "alone"

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


def local_barrier() -> LocalBarrier:
    return LocalBarrier(0, 1, barrier_prefix=uuid.uuid4().hex)


def test_a_handler_that_raises_leaves_the_barrier_to_the_next_call() -> None:
    barrier = Alone(0, 1, 60.0, None)

    with SignalInjector(raise_injected) as injector:
        for _ in range(SIGNALS):
            injector.inject_during(barrier.execute_barrier)
            barrier.execute_barrier()


def test_a_handler_that_raises_breaks_its_round_or_none() -> None:
    raise_in_rounds(local_barrier, SIGNALS)


def test_a_handler_may_abort_at_any_moment() -> None:
    abort_in_rounds(local_barrier, SIGNALS)
