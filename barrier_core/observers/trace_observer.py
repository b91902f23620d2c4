"""Writes down every round of this process, for ``barrier report`` to read."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

from barrier_core.contract import Barrier
from barrier_core.errors import BarrierConfigError, BarrierError, BarrierFailedError
from barrier_core.hooks import hookimpl
from barrier_core.observers.trace_file import TracedBarrier, TraceFile
from barrier_core.observers.trace_format import BarrierStart, FailedRound, PassedRound
from barrier_core.observers.trace_writer import TraceWriter
from barrier_core.this_process import after_fork
from barrier_core.verdict import format_ranks

DEFAULT_MAX_BYTES = 64 * 2**20
"""A round takes 60 bytes: about a million rounds of each rank are kept."""
_MIN_MAX_BYTES = 64 * 2**10
_LONGEST_MESSAGE = 4000  # characters
END_SECS = 1.0
"""How long `TraceObserver.close`, and the end of the process, wait for what is not written yet."""


class TraceObserver:
    """Appends a record of every round to a file of each rank; ``BARRIER_TRACE_DIR`` turns it on.

    No round waits for the disk: a thread of its own writes. It writes a round at once when that has
    ended; where rounds follow each other faster, it writes those of 2 ms together. A rank that is
    killed loses what is not written by then: the rounds of its last few milliseconds, or since
    another of its threads has kept the interpreter's lock, as some extensions do.

    While the folder does not answer, 16,384 rounds wait in memory. Those that follow are dropped.
    The log and the trace say how many, once the folder answers again; the log also at exit. The end
    of the process waits for the folder for at most a second. Disk errors are logged once and break
    nothing: what cannot be written is lost, and a minute later it is tried again.

    Args:
        directory: Where the files go; made where it does not exist.
        max_bytes: What the files of one rank in one process may take together. Above it the older
            half is dropped.

    Raises:
        BarrierConfigError: ``max_bytes`` is less than 64 KiB.
    """

    def __init__(
        self, directory: str | os.PathLike[str], max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        if max_bytes < _MIN_MAX_BYTES:
            raise BarrierConfigError(
                f"max_bytes={max_bytes!r} is too little for a trace: give at least {_MIN_MAX_BYTES}"
            )
        # Absolute, as the process may change its working directory.
        self._directory = Path(directory).absolute()
        self._max_bytes = max_bytes
        self._traced: weakref.WeakKeyDictionary[Barrier, TracedBarrier] = (
            weakref.WeakKeyDictionary()
        )
        self._files: dict[int, TraceFile] = {}
        self._made: Counter[tuple[str, str, str, int]] = Counter()
        self._numbered = 0
        self._lock = threading.RLock()
        self._writer = TraceWriter(self._files)
        _observers.add(self)
        after_fork(self._forget_the_parent)

    @hookimpl
    def barrier_created(self, barrier: Barrier) -> None:
        """Count it, although this rank may never arrive there."""
        if isinstance(barrier, Barrier):  # a class of torch's own contract reports no rounds
            self._trace_of(barrier)

    @hookimpl
    def barrier_enter(self, barrier: Barrier) -> None:
        """Note the time."""
        self._trace_of(barrier).entered_ns = time.monotonic_ns()

    @hookimpl
    def barrier_exit(self, barrier: Barrier, round: int, tag: str) -> None:
        """Write the round."""
        left_ns = time.monotonic_ns()
        traced = self._trace_of(barrier)
        entered_ns = traced.take_entered(left_ns)
        record = PassedRound(traced.number, round, entered_ns, left_ns - entered_ns, tag)
        self._writer.hand_over(traced, record, left_ns)

    @hookimpl
    def barrier_failed(self, barrier: Barrier, round: int, tag: str, error: BarrierError) -> None:
        """Write the round and its verdict."""
        left_ns = time.monotonic_ns()
        traced = self._trace_of(barrier)
        entered_ns = traced.take_entered(left_ns)
        kind, decided_by, missing = type(error).__name__, None, ""
        if isinstance(error, BarrierFailedError):
            kind, decided_by = error.verdict.kind, error.verdict.rank
            missing = format_ranks(status.rank for status in error.verdict.missing)
        # What a store or a file system said need not be text that can be encoded.
        message = str(error)[:_LONGEST_MESSAGE].encode(errors="replace").decode()
        record = FailedRound(
            traced.number,
            round,
            entered_ns,
            left_ns - entered_ns,
            tag,
            kind,
            decided_by,
            missing,
            message,
        )
        self._writer.hand_over(traced, record, left_ns)

    def flush(self, timeout_secs: float) -> bool:
        """Wait until all rounds that have ended are written, or lost to a disk that refuses them.

        Returns:
            False where that takes longer than ``timeout_secs``.
        """
        return self._writer.flush(timeout_secs)

    def close(self) -> None:
        """Write what is left and close the files; a round that ends later opens its file again.

        A folder that does not answer is waited for no longer than a second. What it takes later is
        still written.
        """
        self._writer.close(END_SECS)

    def _trace_of(self, barrier: Barrier) -> TracedBarrier:
        traced = self._traced.get(barrier)
        if traced is not None:
            return traced
        with self._lock:
            if barrier in self._traced:
                return self._traced[barrier]
            rank_info = barrier.rank_info
            # What a backend of others sets them to need not be text.
            barrier_type, prefix, generation = map(
                str, (barrier.barrier_type, barrier.barrier_prefix, barrier.generation)
            )
            key = (barrier_type, prefix, generation, rank_info.global_rank)
            file = self._files.get(rank_info.global_rank)
            if file is None:
                file = self._files[rank_info.global_rank] = TraceFile(
                    self._directory, self._max_bytes, rank_info.global_rank, rank_info.host
                )
            start = BarrierStart(
                self._numbered,
                barrier_type,
                prefix,
                generation,
                self._made[key],
                rank_info.global_world_size,
            )
            self._made[key] += 1
            self._numbered += 1
            traced = self._traced[barrier] = TracedBarrier(file, start)
            return traced

    def _forget_the_parent(self) -> None:
        """Start afresh in a forked child, which has files of its own."""
        files = list(self._files.values())
        self._lock = threading.RLock()  # a thread that the child does not have may hold the old one
        self._traced = weakref.WeakKeyDictionary()
        self._files = {}
        self._made = Counter()
        self._writer = TraceWriter(self._files)
        for file in files:
            file.close()


_observers: weakref.WeakSet[TraceObserver] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """Write what is left, as far as the time suffices, and log how many rounds are missing."""
    deadline = time.monotonic() + END_SECS
    for observer in list(_observers):
        observer.flush(max(deadline - time.monotonic(), 0.0))
        observer._writer.log_missing()
