"""The in-process store and the ``local`` backend: ranks are threads of one process.

The reference implementation, for tests and notebooks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import ClassVar

from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.round_log import passed
from barrier_core.agreement.store import FORGOTTEN, StoreAccess, StoreClient
from barrier_core.capability import Capability
from barrier_core.options import (
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    BarrierPrefix,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    JobId,
    ProgressExtendsDeadline,
    TimeoutSecs,
    WarnAfterSecs,
)
from barrier_core.this_process import after_fork


class LocalStore:
    """A dictionary that threads share; every operation is atomic."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        # Entered by itself: a `Condition` takes it in Python code, where a signal handler that
        # raises would leave it taken. Reentrant, for a handler that goes through a barrier.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        after_fork(self.empty_in_child)

    def empty_in_child(self) -> None:
        """In a forked child: start afresh, as the other ranks' threads are not there."""
        if not self.lock.acquire(blocking=False):  # one of those threads has it
            self.lock._at_fork_reinit()  # type: ignore[attr-defined]
            self.lock.acquire()
        self.values.clear()
        self.changed.notify_all()
        self.lock.release()


class LocalClient(StoreClient):
    """A client of a `LocalStore`. It waits for the log itself and needs no release signal."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__()
        self._store = store
        self._is_closed = False

    def append(self, key: str, record: bytes) -> None:
        """See `StoreClient`."""
        with self._store.lock:
            self._store.values[key] = self._store.values.get(key, b"") + record
            self._store.changed.notify_all()

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `StoreClient`."""
        with self._store.lock:
            return [self._store.values.get(key) for key in keys]

    def create(self, key: str, value: bytes) -> bytes:
        """See `StoreClient`."""
        with self._store.lock:
            return self._store.values.setdefault(key, value)

    def write(self, key: str, value: bytes) -> None:
        """See `StoreClient`."""
        with self._store.lock:
            self._store.values[key] = value

    def remove(self, keys: Iterable[str]) -> None:
        """See `StoreClient`."""
        with self._store.lock:
            for key in keys:
                self._store.values.pop(key, None)

    def close(self) -> None:
        """See `StoreClient`."""
        self._is_closed = True
        self.wake()

    def wait(self, timeout_secs: float) -> bool:
        """See `StoreClient`."""
        log, world_size = self._waits_for

        def released() -> bool:
            return passed(self._store.values.get(log, b""), world_size)

        def forgotten() -> bool:
            return self.incarnation is not None and (
                self._store.values.get(self.incarnation[0]) != self.incarnation[1]
            )

        with self._store.lock:
            self._store.changed.wait_for(lambda: released() or self._wake_up.called(), timeout_secs)
            self._wake_up.clear()
            if self._is_closed:  # in a child that was forked meanwhile
                raise StoreLostError("the connection is closed")
            if forgotten():
                raise StoreLostError(FORGOTTEN)
            return released()

    def wake(self) -> None:
        """See `StoreClient`."""
        super().wake()
        with self._store.lock:
            self._store.changed.notify_all()


STORE = LocalStore()


class LocalBarrier(StoreBarrier):
    """A barrier between threads of one process.

    Args:
        global_rank: This thread's rank, from 0.
        global_world_size: Number of threads that must arrive.
        barrier_prefix: Name of the barrier; threads that give the same name meet.
        generation: Changes when all threads start afresh.
        timeout_secs: Hard limit in seconds on one wait; None or infinity: no limit.
        warn_after_secs: Soft limit in seconds after which observers hear who is missing.
        progress_extends_deadline: Count the hard limit from the late ranks' last progress.
        job_id: Tells this job from others; from the launcher if None.
    """

    barrier_type: ClassVar[str] = "local"
    ranks_are_threads: ClassVar[bool] = True
    # Threads of one process live and die together.
    capabilities: ClassVar[Capability] = StoreBarrier.capabilities & ~Capability.LIVENESS

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        barrier_prefix: BarrierPrefix = "barrier",
        generation: Generation = None,
        timeout_secs: TimeoutSecs = DEFAULT_TIMEOUT_SECS,
        warn_after_secs: WarnAfterSecs = DEFAULT_WARN_AFTER_SECS,
        progress_extends_deadline: ProgressExtendsDeadline = False,
        job_id: JobId = None,
    ) -> None:
        super().__init__(
            global_rank,
            global_world_size,
            store=StoreAccess("store of this process", lambda: LocalClient(STORE)),
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=0.0,
            progress_extends_deadline=progress_extends_deadline,
            job_id=job_id,
        )
