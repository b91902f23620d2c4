"""Signal handlers run between any two steps of a rank's main thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from barrier_core import Barrier
from barrier_core.testing.rank_processes import RankProcesses
from barrier_core.testing.signal_injection import abort_in_rounds, raise_in_rounds
from barrier_tcp_store import TCPStoreBarrier
from plugins.tcp_store.tests.rank_functions import Job

SIGNALS = 250


def go_through_interrupted(
    rank: int, rounds: Callable[[Callable[[], Barrier], int], None], prefix: str, port: int
) -> None:
    """Go through barriers alone, at a server of this rank's, while signals are injected."""
    numbers = itertools.count()

    def make() -> Barrier:
        return TCPStoreBarrier(
            0, 1, f"{prefix}-{next(numbers)}", master_address="127.0.0.1", tcpstore_port=port
        )

    with make():  # keeps the server
        rounds(make, SIGNALS)


def test_a_handler_that_raises_breaks_its_round_or_none(
    ranks: RankProcesses, job: Job, free_port: int
) -> None:
    ranks.run(0, go_through_interrupted, raise_in_rounds, job.prefix, free_port)


def test_a_handler_may_abort_at_any_moment(ranks: RankProcesses, job: Job, free_port: int) -> None:
    ranks.run(0, go_through_interrupted, abort_in_rounds, job.prefix, free_port)
