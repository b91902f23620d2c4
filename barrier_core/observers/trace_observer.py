"""Writes down every round of this process, for ``barrier report`` to read."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import weakref
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec

from barrier_core.contract import Barrier
from barrier_core.errors import BarrierConfigError, BarrierError, BarrierFailedError
from barrier_core.hooks import hookimpl
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
from barrier_core.this_process import after_fork, boot_id, namespace_id
from barrier_core.verdict import format_ranks

logger = logging.getLogger("barrier_core")

DEFAULT_MAX_BYTES = 64 * 2**20
"""A round takes 60 bytes: about a million rounds of each rank are kept."""
_MIN_MAX_BYTES = 64 * 2**10
_LONGEST_MESSAGE = 4000  # characters
READ_CLOCKS_EVERY_NS = 30 * 10**9
RETRY_AFTER_NS = 60 * 10**9


class TraceObserver:
    """Appends a record of every round to a file of each rank; ``BARRIER_TRACE_DIR`` turns it on.

    A record is written when its round ends, in one write, so that a rank that is killed loses at
    most the last. Disk errors are logged once and break nothing: what cannot be written is lost,
    and a minute later it is tried again.

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
        self._traced: weakref.WeakKeyDictionary[Barrier, _Traced] = weakref.WeakKeyDictionary()
        self._files: dict[int, _TraceFile] = {}
        self._made: Counter[tuple[str, str, str, int]] = Counter()
        self._numbered = 0
        self._lock = threading.RLock()
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
        traced.file.write(traced, record, left_ns)

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
        traced.file.write(traced, record, left_ns)

    def close(self) -> None:
        """Close the files; a round that ends later opens its file again."""
        for file in list(self._files.values()):
            file.close()

    def _trace_of(self, barrier: Barrier) -> _Traced:
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
                file = self._files[rank_info.global_rank] = _TraceFile(
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
            traced = self._traced[barrier] = _Traced(file, start)
            return traced

    def _forget_the_parent(self) -> None:
        """Start afresh in a forked child, which has files of its own."""
        files = list(self._files.values())
        self._lock = threading.RLock()  # a thread that the child does not have may hold the old one
        self._traced = weakref.WeakKeyDictionary()
        self._files = {}
        self._made = Counter()
        for file in files:
            file.abandon()


class _Traced:
    """A barrier and what its file says of it."""

    __slots__ = ("entered_ns", "file", "number", "section", "start")

    def __init__(self, file: _TraceFile, start: BarrierStart) -> None:
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


class _TraceFile:
    """The files of one rank in this process: one that grows, and the one before it."""

    def __init__(self, directory: Path, max_bytes: int, rank: int, host: str) -> None:
        self._rank = rank
        self._host = host
        self._pid = os.getpid()
        self._started_ns = time.time_ns()
        name = f"rank{rank}-{re.sub(r'[^A-Za-z0-9._-]', '_', host)}-{self._pid}"
        # The time, as two containers may share host name and pid, and a pid comes again.
        self._path = directory / f"{name}-{self._started_ns:x}{SUFFIX}"
        self._limit = max_bytes // 2
        self._encode = msgspec.json.Encoder().encode
        self._lock = threading.RLock()  # a signal handler may go through a barrier
        self._descriptor: int | None = None
        self._size = 0
        self._section = object()
        self._rounds = 0
        """Rounds that have ended so far, written or lost."""
        self._read_clocks_at = 0
        self._retry_at = 0
        self._error_is_logged = False

    def write(self, traced: _Traced, record: PassedRound | FailedRound, now_ns: int) -> None:
        """Write a round, or drop it where the disk refuses."""
        with self._lock:
            try:
                if now_ns >= self._retry_at:
                    self._write(traced, record, now_ns)
            except OSError as error:
                self._close_after(error, now_ns)
            except BaseException:  # Ctrl-C: start a new section rather than guess what is written
                self.close()
                raise
            finally:
                self._rounds += 1

    def close(self) -> None:
        """Close the file; `write` opens it again."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def abandon(self) -> None:
        """Close a forked child's copy of the descriptor."""
        self._lock = threading.RLock()
        with suppress(OSError):  # the descriptor is gone all the same
            self.close()

    def _write(self, traced: _Traced, record: Line, now_ns: int) -> None:
        if self._descriptor is not None and now_ns >= self._read_clocks_at:
            if os.fstat(self._descriptor).st_nlink:
                self._read_clocks(now_ns)
            else:  # somebody has deleted it
                self.close()
        if self._descriptor is not None and self._size >= self._limit:
            self.close()
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
            self._size += os.write(self._descriptor, b"\n")
        self._append(
            TraceStart(
                TRACE_FORMAT,
                self._rank,
                self._host,
                self._pid,
                _clock_name(self._host),
                self._started_ns,
                self._rounds,
            )
        )
        self._read_clocks(now_ns)

    def _read_clocks(self, now_ns: int) -> None:
        self._append(ClockReading(time.time_ns(), time.monotonic_ns()))
        self._read_clocks_at = now_ns + READ_CLOCKS_EVERY_NS

    def _append(self, line: Line) -> None:
        # One write, so that the kernel has every finished line when the process is killed.
        text = self._encode(line) + b"\n"
        assert self._descriptor is not None
        written = os.write(self._descriptor, text)
        self._size += written
        if written < len(text):
            raise OSError(f"only {written} of {len(text)} bytes could be written")

    def _close_after(self, error: OSError, now_ns: int) -> None:
        self._retry_at = now_ns + RETRY_AFTER_NS
        with suppress(OSError):  # the descriptor is gone all the same
            self.close()
        if not self._error_is_logged:
            self._error_is_logged = True
            logger.warning(
                "rounds of rank %d are missing in the trace, as %s cannot be written: %s. This is "
                "logged once; the barrier goes on",
                self._rank,
                self._path,
                error,
            )


def _clock_name(host: str) -> str:
    boot, namespace = boot_id(), namespace_id("time")
    if boot is None:
        return host
    # A container may have been given a clock of its own.
    return boot if namespace is None else f"{boot} {namespace}"
