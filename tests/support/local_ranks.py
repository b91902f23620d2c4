"""Ranks as threads of this process, with barriers on its own store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from barrier_core import Barrier, BarrierFailedError, Verdict
from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.round_log import parse
from barrier_core.agreement.store import StoreAccess
from barrier_core.backends.local import STORE, LocalBarrier
from barrier_core.hooks import plugin_manager
from barrier_core.testing import RankThreads
from barrier_core.testing.conformance.rank_side import Recorder

_HANGS_SECS = 60.0
_NEVER_SECS = 20.0


def _run(rank: int, body: Callable[[], object]) -> None:
    body()


class Ranks:
    """Threads that each do something as one rank; what came of it is kept."""

    def __init__(self, *bodies: Callable[[], object]) -> None:
        threads = RankThreads(len(bodies))
        self._calls = [threads.start(rank, _run, body) for rank, body in enumerate(bodies)]
        threads.close()  # each ends after its body

    def outcomes(self) -> list[BaseException | None]:
        """Wait for all; return what each raised."""
        return [call.error(_HANGS_SECS) for call in self._calls]

    def pass_(self) -> None:
        """Wait for all; none may have raised."""
        assert self.outcomes() == [None] * len(self._calls)

    def verdict(self) -> Verdict:
        """Wait for all; return the one verdict that all of them have raised."""
        verdicts = [verdict_of(error) for error in self.outcomes()]
        assert verdicts == verdicts[:1] * len(verdicts)
        return verdicts[0]


def arriving(*barriers: Barrier, **options: Any) -> Ranks:
    """All these ranks arrive at once."""
    return Ranks(*[lambda barrier=b: barrier.execute_barrier(**options) for b in barriers])


def verdict_of(error: BaseException | None) -> Verdict:
    """Return the verdict that a failed round's error carries."""
    assert isinstance(error, BarrierFailedError), repr(error)
    return error.verdict


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what other threads bring about."""
    deadline = time.monotonic() + _NEVER_SECS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


@contextmanager
def observed_by(observer: object) -> Iterator[None]:
    """Have an observer hear of everything in the block."""
    plugin_manager.register(observer)
    try:
        yield
    finally:
        plugin_manager.unregister(observer)


class BarrierOnAccess(StoreBarrier):
    """A barrier on whatever store a test wants it to have."""

    barrier_type = "test"

    def __init__(
        self,
        global_rank: int,
        global_world_size: int,
        *,
        store: StoreAccess,
        barrier_prefix: str,
        timeout_secs: float,
        generation: str | None = None,
        progress_extends_deadline: bool = False,
        warn_after_secs: float | None = None,
        heartbeat_secs: float = 0.0,
    ) -> None:
        super().__init__(
            global_rank,
            global_world_size,
            store=store,
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=heartbeat_secs,
            progress_extends_deadline=progress_extends_deadline,
        )


class LocalJob:
    """The barriers of one test, under a prefix of its own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.keys = Keys(prefix, "0.0")
        """Of the first barrier that each rank makes."""
        self._opened: list[StoreBarrier] = []
        self._recorders: list[Recorder] = []

    def barrier(
        self, rank: int, world_size: int, store: StoreAccess | None = None, **options: Any
    ) -> StoreBarrier:
        """Make the barrier of a rank: a `LocalBarrier`, or one on ``store``."""
        options = {"barrier_prefix": self.prefix, "timeout_secs": 30.0, **options}
        if store is None:
            barrier: StoreBarrier = LocalBarrier(rank, world_size, **options)
        else:
            barrier = BarrierOnAccess(rank, world_size, store=store, **options)
        self._opened.append(barrier)
        return barrier

    def barriers(
        self, world_size: int, store: StoreAccess | None = None, **options: Any
    ) -> list[StoreBarrier]:
        """Make the barriers of all ranks."""
        return [self.barrier(rank, world_size, store, **options) for rank in range(world_size)]

    def listen(self, barrier: Barrier) -> Recorder:
        """Return an observer that keeps what it hears of a barrier from now on."""
        recorder = Recorder(barrier, raises=False)
        plugin_manager.register(recorder)
        self._recorders.append(recorder)
        return recorder

    @property
    def stored(self) -> list[str]:
        """The keys that the store has of this job."""
        return [key for key in list(STORE.values) if key.startswith(f"barrier//{self.prefix}/")]

    def log(self, number: int) -> bytes:
        """Return the log of a round."""
        return STORE.values.get(self.keys.round(number, "").log, b"")

    def wait_until_arrived(self, *ranks: int, number: int = 1) -> None:
        """Wait until the store knows that these ranks have come to a round."""
        wait_until(
            lambda: set(ranks) <= {arrival.rank for arrival in parse(self.log(number)).arrivals}
        )

    def close(self) -> None:
        """Close all barriers that were made."""
        for barrier in self._opened:
            barrier.close()
        for recorder in self._recorders:
            plugin_manager.unregister(recorder)
        self._recorders = []
