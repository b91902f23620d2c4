"""Reads the trace files of a folder. Torn lines, foreign files and lost rounds become notes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from barrier_core.plugin_api import (
    SUFFIX,
    TRACE_FORMAT,
    BarrierError,
    BarrierStart,
    ClockReading,
    FailedRound,
    Line,
    Meta,
    PassedRound,
    TraceStart,
    format_ranks,
)
from barrier_report.files import first_line, read_lines

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done, from 0 to 1."""

_decode_lines = msgspec.json.Decoder(Line).decode_lines
_decode_line = msgspec.json.Decoder(Line).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode
_NOT_LINES = (ValueError, msgspec.MsgspecError, RecursionError)
"""What decoding raises for anything else than a line; the last where thousands of brackets open."""


_Format = Annotated[int, Meta(ge=0, le=2**53)]


class _Beginning(msgspec.Struct, array_like=True):
    """What the first line of every format begins with."""

    tag: str
    format: _Format


_decode_beginning = msgspec.json.Decoder(_Beginning).decode


class NoTraceError(BarrierError, ValueError):
    """The folder has no trace of any rank."""


@dataclass(eq=False)
class RankSession:
    """One rank's rounds in one barrier, in one process. Times are the process's own, in ns."""

    start: TraceStart
    barrier: BarrierStart
    rounds: array[int] = field(default_factory=lambda: array("q"))
    """Numbers of those that passed."""
    entered: array[int] = field(default_factory=lambda: array("q"))
    left: array[int] = field(default_factory=lambda: array("q"))
    tags: array[int] = field(default_factory=lambda: array("l"))
    """Index in `Traces.tags`."""
    failed: list[FailedRound] = field(default_factory=list)

    def times(self) -> Iterator[int]:
        """Yield when rounds were entered and left."""
        yield from self.entered
        yield from self.left
        for failed in self.failed:
            yield failed.entered_ns
            yield failed.entered_ns + failed.waited_ns


@dataclass
class Traces:
    """Everything in the files of a folder."""

    parts: list[RankSession]
    tags: list[str]
    clocks: dict[str, list[ClockReading]]
    """By the name of the clock."""
    notes: list[str]


def read_traces(folder: Path, progress: Progress = lambda what, done: None) -> Traces:
    """Read every trace file of a folder.

    Raises:
        NoTraceError: It does not exist, or holds no trace; the message says how to get one.
    """
    reader = _Reader()
    sources = reader.find(folder)
    total = sum(size for _, _, size in sources) or 1
    done = 0
    for _, path, size in sources:
        for read in reader.read(path):
            progress("reading", (done + read) / total)
        done += size
    return reader.result()


class _Reader:
    def __init__(self) -> None:
        self._parts: dict[tuple[object, int], RankSession] = {}
        self._tags: dict[str, int] = {}
        self._clocks: dict[str, list[ClockReading]] = {}
        self._counts_of: dict[object, list[int]] = {}
        """By process: rounds read so far, rounds known to be lost, and the rank."""
        self._notes: list[str] = []
        self._torn: dict[str, int] = {}

    def find(self, folder: Path) -> list[tuple[TraceStart, Path, int]]:
        """Return the files of the folder in the order in which they were written."""
        remedy = (
            "run the job with BARRIER_TRACE_DIR set to a folder that the ranks can write to, and "
            "give that folder here"
        )
        if not folder.is_dir():
            raise NoTraceError(f"{folder} is not a folder: {remedy}")
        sources = []
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                line, size = first_line(path)
                start = self._start_of(path, line)
            except OSError as error:
                self._notes.append(f"{_name(path)} is left out: {error.strerror}")
                continue
            if start is not None:
                sources.append((start, path, size))
        if not sources:
            raise NoTraceError("; ".join([f"{folder} holds no trace", *self._notes, remedy]))
        return sorted(sources, key=lambda source: (_process(source[0]), source[0].before))

    def _start_of(self, path: Path, line: bytes) -> TraceStart | None:
        """Decode a file's first line; note why it is left out if that is none that is known."""
        if not line.strip():
            return None  # the rank was killed before it wrote
        try:
            first = _decode_beginning(line)
            if first.tag != "trace":
                raise ValueError("no trace")
            if first.format != TRACE_FORMAT:
                self._notes.append(
                    f"{_name(path)} is left out: it has format {first.format}, and this version of "
                    f"barrier-core reads format {TRACE_FORMAT}"
                )
                return None
            start = _decode_line(line)
            assert isinstance(start, TraceStart)  # by its tag
            return start
        except _NOT_LINES:
            self._notes.append(f"{_name(path)} is left out: it is not a trace of barrier-core")
            return None

    def read(self, path: Path) -> Iterator[int]:
        """Read one file; yield how many bytes are read."""
        self._start: TraceStart | None = None
        self._here: dict[int, RankSession] = {}
        try:
            for lines, position in read_lines(path):
                self._take(self._lines(path, lines))
                yield position
        except OSError as error:
            self._notes.append(f"{_name(path)} is read in part: {error.strerror}")

    def _lines(self, path: Path, text: bytes) -> Iterable[Line]:
        try:
            return _decode_lines(text)
        except _NOT_LINES:
            return self._lines_one_by_one(path, text)

    def _lines_one_by_one(self, path: Path, text: bytes) -> Iterator[Line]:
        for line in text.split(b"\n"):
            if not line:
                continue
            try:
                yield _decode_line(line)
            except _NOT_LINES:
                if not _is_an_array(line):  # else it is of a later version, and no loss
                    self._torn[_name(path)] = self._torn.get(_name(path), 0) + 1

    def _take(self, lines: Iterable[Line]) -> None:
        tags = self._tags
        for line in lines:
            if isinstance(line, TraceStart):
                self._begin_section(line)
            elif self._start is None:
                continue
            elif isinstance(line, PassedRound):
                part = self._here.get(line.barrier)
                self._counts[0] += 1
                if part is None:
                    continue
                part.rounds.append(line.round)
                part.entered.append(line.entered_ns)
                part.left.append(line.entered_ns + line.waited_ns)
                part.tags.append(tags.setdefault(line.tag, len(tags)))
            elif isinstance(line, FailedRound):
                self._counts[0] += 1
                if line.barrier in self._here:
                    self._here[line.barrier].failed.append(line)
            elif isinstance(line, BarrierStart):
                key = (_process(self._start), line.number)
                self._here[line.number] = self._parts.setdefault(
                    key, RankSession(self._start, line)
                )
            else:
                self._clocks.setdefault(self._start.clock, []).append(line)

    def _begin_section(self, start: TraceStart) -> None:
        if start.format != TRACE_FORMAT:
            self._start = None  # nothing that follows is known to mean what it seems to
            return
        self._start = start
        self._counts = self._counts_of.setdefault(_process(start), [0, 0, start.rank])
        self._counts[1] += max(start.before - sum(self._counts[:2]), 0)

    def result(self) -> Traces:
        """Return what was read, with notes on what was not."""
        lost = {rank: 0 for _, _, rank in self._counts_of.values()}
        for _, missing, rank in self._counts_of.values():
            lost[rank] += missing
        losers = [rank for rank, missing in lost.items() if missing]
        if losers:
            self._notes.append(
                "records that were dropped for space, or that the disk refused: "
                f"{sum(lost.values())}, of rank {format_ranks(losers)}"
            )
        if self._torn:
            names = sorted(self._torn)
            more = ", …" if len(names) > 3 else ""
            self._notes.append(
                "torn lines, of a rank that was killed while it wrote, or of a full disk: "
                f"{sum(self._torn.values())}, in {', '.join(names[:3])}{more}"
            )
        parts = [part for part in self._parts.values() if part.rounds or part.failed]
        return Traces(parts, list(self._tags), self._clocks, self._notes)


def _is_an_array(line: bytes) -> bool:
    try:
        _check(line)
    except _NOT_LINES:
        return False
    return line.lstrip().startswith(b"[")


def _name(path: Path) -> str:
    """Return a file's name as text; its bytes need not be any."""
    return os.fsencode(path.name).decode(errors="replace")


def _process(start: TraceStart) -> tuple[int, str, int, int]:
    return start.started_ns, start.host, start.pid, start.rank
