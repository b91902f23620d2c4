"""What the tests look at from outside: the store's log, and what the ranks have raised."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from barrier_core.agreement.keys import Keys
from barrier_core.agreement.round_log import parse
from barrier_core.errors import BarrierFailedError
from barrier_core.testing.rank_processes import RankCall, wait_until
from barrier_core.verdict import Verdict
from barrier_tcp_store.wire import TCPStoreClient
from plugins.tcp_store.tests.rank_functions import Job

SOON_SECS = 20.0
"""Well below the 60 s for which a barrier of the tests waits; a busy machine takes less."""


def keys_of(job: Job) -> Keys:
    """Where the job's first barrier in its generation keeps its state."""
    return Keys(job.prefix, f"{job.generation}.0", job.options.get("job_id", ""))


def client_of(job: Job) -> TCPStoreClient:
    """Connect to the job's store."""
    return TCPStoreClient("127.0.0.1", job.agent_port or job.options["tcpstore_port"])


def wait_until_arrived(job: Job, ranks: Collection[int], number: int = 1) -> None:
    """Return once these ranks, and no others, have arrived at a round."""
    log = keys_of(job).round(number, "").log
    with closing(client_of(job)) as client:

        def arrived() -> set[int]:
            return {arrival.rank for arrival in parse(client.read([log])[0] or b"").arrivals}

        wait_until(lambda: arrived() == set(ranks), f"ranks {ranks} have arrived", 10)


def wait_until_reported(job: Job, rank: int, progress: str) -> None:
    """Return once the store knows of a rank's progress."""
    heartbeat = keys_of(job).heartbeat(rank)
    with closing(client_of(job)) as client:
        wait_until(
            lambda: progress.encode() in (client.read([heartbeat])[0] or b""), "it is known", 10
        )


def the_verdict(calls: Sequence[RankCall[Any]], timeout_secs: float | None = None) -> Verdict:
    """Return the one verdict that all calls have raised."""
    errors = [call.error(timeout_secs) for call in calls]
    verdicts = []
    for error in errors:
        if not isinstance(error, BarrierFailedError):
            raise AssertionError(f"not a failed round: {errors}")
        verdicts.append(error.verdict)
    assert all(verdict == verdicts[0] for verdict in verdicts), f"split: {verdicts}"
    assert len({type(error) for error in errors}) == 1
    return verdicts[0]


@contextmanager
def soon() -> Iterator[None]:
    """Fail when the block takes longer than `SOON_SECS`."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < SOON_SECS, f"took {took:.1f} s, may take {SOON_SECS:g} s"
