"""The trace files of one rank in this process."""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from barrier_core.observers.trace_format import (
    SUFFIX,
    TRACE_FORMAT,
    BarrierStart,
    ClockReading,
    FailedRound,
    Line,
    PassedRound,
    TraceStart,
)
from barrier_core.this_process import boot_id, namespace_id

logger = logging.getLogger("barrier_core")

READ_CLOCKS_EVERY_NS = 30 * 10**9
RETRY_AFTER_NS = 60 * 10**9


class TracedBarrier:
    """A barrier and what its file says of it."""

    __slots__ = ("entered_ns", "file", "number", "section", "start")

    def __init__(self, file: TraceFile, start: BarrierStart) -> None:
        self.file = file
        self.start = start
        self.number = start.number
        self.section: object = None
        """The section of the file that has the barrier's `BarrierStart`."""
        self.entered_ns: int | None = None

    def take_entered(self, left_ns: int) -> int:
        """Return when the round was entered; when it was left, for one begun unobserved."""
        entered_ns, self.entered_ns = self.entered_ns, None
        return left_ns if entered_ns is None else entered_ns


class TraceFile:
    """The files of one rank in this process: one that grows, and the one before it.

    Only the writer's thread uses it, but for `dropped`, and for `close` in a forked child.
    """

    def __init__(self, directory: Path, max_bytes: int, rank: int, host: str) -> None:
        self.rank = rank
        self.directory = directory
        self.dropped = 0
        """Rounds that came while too many waited for the writer. The threads of the rounds add to
        it, without a lock: no other thread and no signal handler comes between the steps of one
        addition in CPython with its global lock."""
        self._host = host
        self._pid = os.getpid()
        self._started_ns = time.time_ns()
        name = f"rank{rank}-{re.sub(r'[^A-Za-z0-9._-]', '_', host)}-{self._pid}"
        # The time, as two containers may share host name and pid, and a pid comes again.
        self._path = directory / f"{name}-{self._started_ns:x}{SUFFIX}"
        self._limit = max_bytes // 2
        self._encode = msgspec.json.Encoder().encode
        self._descriptor: int | None = None
        self._lines: list[bytes] = []
        """What is to be written next."""
        self._size = 0
        """Of the file, and of what is to be written next."""
        self._section = object()
        self._rounds = 0
        """Rounds that have ended so far, written or lost, but for those dropped."""
        self._dropped_in_file = 0
        """How many of those dropped the file tells of."""
        self._dropped_in_log = 0
        self._log_at = 0
        self._read_clocks_at = 0
        self._retry_at = 0
        self._error_is_logged = False

    def add(self, traced: TracedBarrier, record: PassedRound | FailedRound, now_ns: int) -> None:
        """Add a round to what is to be written, or lose it where the disk refuses."""
        try:
            if now_ns >= self._retry_at:
                self._add(traced, record, now_ns)
        except OSError as error:
            self._close_after(error)
        finally:
            self._rounds += 1

    def write(self) -> None:
        """Write what has been added, or lose it where the disk refuses."""
        try:
            self._write()
        except OSError as error:
            self._close_after(error)

    def tell_dropped(self) -> None:
        """Write, and log, how many rounds were dropped since the last time."""
        if self.dropped == self._dropped_in_log:
            return
        now_ns = time.monotonic_ns()
        try:
            if self.dropped != self._dropped_in_file and now_ns >= self._retry_at:
                # The number stands in the first line of a section.
                self._close()
                self._open(now_ns)
                self._write()
        except OSError as error:
            self._close_after(error)
        if now_ns >= self._log_at:  # a slow disk may drop some again and again
            self._log_at = now_ns + RETRY_AFTER_NS
            self.log_missing()

    def log_missing(self, waiting: int = 0) -> None:
        """Log how many rounds are missing that the log does not tell of yet.

        Args:
            waiting: How many wait to be written, and will not be.
        """
        missing = self.dropped - self._dropped_in_log + waiting
        self._dropped_in_log = self.dropped
        if missing:
            logger.warning(
                "%d rounds of rank %d are missing in the trace, as they could not be written to "
                "%s in time",
                missing,
                self.rank,
                self._path,
            )

    def close(self) -> None:
        """Close the file; `add` opens it again."""
        with suppress(OSError):  # the descriptor is gone all the same
            self._close()

    def _add(self, traced: TracedBarrier, record: Line, now_ns: int) -> None:
        if self._descriptor is not None and now_ns >= self._read_clocks_at:
            if os.fstat(self._descriptor).st_nlink:
                self._read_clocks(now_ns)
            else:  # somebody has deleted it
                self._close()
        if self._descriptor is not None and self._size >= self._limit:
            self._write()
            self._close()
            os.replace(self._path, self._path.with_suffix(f".old{SUFFIX}"))
        if self._descriptor is None:
            self._open(now_ns)
        if traced.section is not self._section:
            self._append(traced.start)
            traced.section = self._section
        self._append(record)

    def _open(self, now_ns: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._descriptor = os.open(self._path, flags, 0o644)
        self._size = os.fstat(self._descriptor).st_size
        self._section = object()
        if self._size:  # the last line may be torn
            self._lines.append(b"\n")
        self._dropped_in_file = self.dropped
        self._append(
            TraceStart(
                TRACE_FORMAT,
                self.rank,
                self._host,
                self._pid,
                _clock_name(self._host),
                self._started_ns,
                self._rounds + self._dropped_in_file,
            )
        )
        self._read_clocks(now_ns)

    def _read_clocks(self, now_ns: int) -> None:
        self._append(ClockReading(time.time_ns(), time.monotonic_ns()))
        self._read_clocks_at = now_ns + READ_CLOCKS_EVERY_NS

    def _append(self, line: Line) -> None:
        text = self._encode(line) + b"\n"
        self._lines.append(text)
        self._size += len(text)

    def _write(self) -> None:
        if not self._lines:
            return
        text = b"".join(self._lines)
        self._lines.clear()
        assert self._descriptor is not None
        written = os.write(self._descriptor, text)
        if written < len(text):
            raise OSError(f"only {written} of {len(text)} bytes could be written")

    def _close(self) -> None:
        self._lines.clear()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _close_after(self, error: OSError) -> None:
        self._retry_at = time.monotonic_ns() + RETRY_AFTER_NS
        self.close()
        if not self._error_is_logged:
            self._error_is_logged = True
            logger.warning(
                "rounds of rank %d are missing in the trace, as %s cannot be written: %s. This is "
                "logged once; the barrier goes on",
                self.rank,
                self._path,
                error,
            )


def _clock_name(host: str) -> str:
    boot, namespace = boot_id(), namespace_id("time")
    if boot is None:
        return host
    # A container may have been given a clock of its own.
    return boot if namespace is None else f"{boot} {namespace}"
