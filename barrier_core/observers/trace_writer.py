"""The thread that writes traces, so that a round never waits for a disk.

A write to a regular file waits for as long as the file system does: O_NONBLOCK means nothing there,
and Linux waits for a frozen file system whatever the flags. So no thread of a round may write. What
it does instead is one append to a queue, and a call to the writer if that sleeps.

The writer writes at once what comes after a pause. What follows within `BATCH_SECS` is written
together: a system call for each round would have the writer and the rounds fight for the
interpreter's lock.

At exit nobody waits for this thread. But while it waits for a frozen file system, Linux keeps what
is left of the process, a zombie. Only a process of its own would change that, one more for each
rank.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from barrier_core.agreement.wakeup import WakeUp
from barrier_core.observers.trace_file import TracedBarrier, TraceFile
from barrier_core.observers.trace_format import FailedRound, PassedRound

logger = logging.getLogger("barrier_core")

BATCH_SECS = 0.002
MAX_QUEUED = 2**14
"""Rounds that wait at most; they take some 5 MB."""
_POLL_SECS = 0.001


class TraceWriter:
    """Writes rounds, in the order in which they are handed over, on a thread of its own.

    The thread starts with the first round. Whatever is called here may be called by any thread, and
    by a signal handler at any moment.

    Args:
        files: By rank, those that rounds are handed over for; more may be added.
    """

    def __init__(self, files: Mapping[int, TraceFile]) -> None:
        self._files = files
        self._queue: deque[tuple[TracedBarrier, PassedRound | FailedRound, int]] = deque()
        """A round stays here until it is written. Only the writer's thread removes."""
        self._must_be_called = True
        """Whether the writer sleeps, or is not there. Why no call is lost: a round is in the queue
        before this is read, and the writer sets it before it looks into the queue."""
        self._wake_up = WakeUp()
        self._not_running: list[None] = [None]
        """Empty while a thread writes: each removes the item first, and only one can."""
        self._closing = False
        self._drops_are_logged = False

    def hand_over(
        self, traced: TracedBarrier, record: PassedRound | FailedRound, left_ns: int
    ) -> None:
        """Have a round written, or drop it where too many wait."""
        queue = self._queue
        if len(queue) >= MAX_QUEUED:
            self._drop(traced.file)
            return
        queue.append((traced, record, left_ns))
        if self._must_be_called:
            self._call()

    def flush(self, timeout_secs: float) -> bool:
        """Wait until everything is written or lost.

        Returns:
            False where that takes longer.
        """
        return self._wait(lambda: not self._queue, timeout_secs)

    def close(self, timeout_secs: float) -> bool:
        """Write everything, close the files and end the thread; the next round starts another.

        Returns:
            False where that takes longer: it goes on behind the caller's back.
        """
        if self._not_running and not self._queue:
            return True
        self._closing = True
        return self._wait(lambda: not self._queue and bool(self._not_running), timeout_secs)

    def log_missing(self) -> None:
        """Log how many rounds are missing, those that wait included."""
        waiting = Counter(traced.file for traced, _, _ in self._queue.copy())
        for file in list(self._files.values()):
            file.log_missing(waiting[file])

    def _wait(self, done: Callable[[], bool], timeout_secs: float) -> bool:
        deadline = time.monotonic() + timeout_secs
        while not done():
            if time.monotonic() >= deadline:
                return False
            self._call()
            time.sleep(_POLL_SECS)
        return True

    def _call(self) -> None:
        if self._not_running:
            try:
                threading.Thread(target=self._run, name="barrier-trace", daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                return
        self._wake_up.call()

    def _drop(self, file: TraceFile) -> None:
        file.dropped += 1
        if not self._drops_are_logged:
            self._drops_are_logged = True
            logger.warning(
                "rounds of rank %d are missing in the trace from now on, as %d wait to be written "
                "to %s, which does not take them. This is logged once; how many are missing is "
                "logged when it takes them again, or at exit. The barrier goes on",
                file.rank,
                MAX_QUEUED,
                file.directory,
            )

    def _run(self) -> None:
        try:
            self._not_running.pop()
        except IndexError:
            return  # another thread writes
        try:
            self._write_until_closed()
        finally:
            for file in list(self._files.values()):
                file.close()
            self._closing = False
            self._must_be_called = True
            self._not_running.append(None)
        if self._queue:  # handed over too late for this thread, too early for the next
            self._call()

    def _write_until_closed(self) -> None:
        written_at = 0.0
        while True:
            self._must_be_called = True
            if not self._queue:
                if self._closing:
                    return
                self._wake_up.wait(None)
            self._must_be_called = False
            # What has been called for until now is in the queue.
            self._wake_up.clear()
            if not self._closing:
                self._wake_up.wait(written_at + BATCH_SECS - time.monotonic())
            self._write_queued()
            written_at = time.monotonic()

    def _write_queued(self) -> None:
        batch = self._queue.copy()
        files = set()
        for traced, record, left_ns in batch:
            try:
                traced.file.add(traced, record, left_ns)
            except Exception:
                logger.exception("a round is missing in the trace")
            files.add(traced.file)
        for file in files:
            file.write()
        for _ in batch:
            self._queue.popleft()
        for file in list(self._files.values()):
            file.tell_dropped()
