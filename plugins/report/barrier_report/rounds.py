"""Joins the records that ranks have written of the same rounds."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import compress

from barrier_core.plugin_api import ClockReading, FailedRound
from barrier_report.read import RankSession, Traces

_SMALL_CELLS = 2**24
_LEAST_SHARE = 16
# By how much the clocks of hosts may differ within one session.
_GAP_NS = 60 * 10**9


@dataclass(eq=False)
class Session:
    """One barrier on all its ranks, from the first round to the last.

    The columns have an item for each of `numbers`, in seconds since the report's origin; not a
    number where the rank has no record of the round.
    """

    barrier_type: str
    prefix: str
    generation: str
    world_size: int
    parts: list[RankSession]
    """By rank."""
    numbers: list[int] = field(default_factory=list)
    """Of the rounds of which there is a record."""
    index_of: dict[int, int] = field(default_factory=dict)
    """Where in `numbers` a round is."""
    tags: list[str] = field(default_factory=list)
    entered: list[array[float]] = field(default_factory=list)
    """A column for each of `parts`."""
    left: list[array[float]] = field(default_factory=list)
    failed: dict[int, dict[int, FailedRound]] = field(default_factory=dict)
    """By index of the round and rank."""

    @property
    def ranks(self) -> list[int]:
        """The ranks of which there are records, in order."""
        return [part.start.rank for part in self.parts]


def wall_offset_ns(readings: list[ClockReading]) -> int:
    """Return Unix time minus monotonic time, in ns: the median, so that a jump does not count."""
    return statistics.median_low([r.wall_ns - r.monotonic_ns for r in readings] or [0])


def ranges_missing(world_size: int, ranks: Iterable[int]) -> list[range]:
    """Return which ranks of a barrier are not among those given, in order.

    Takes memory for those given: the world size is what a file claims.
    """
    missing = []
    begin = 0
    for rank in sorted(ranks):
        if rank >= world_size:
            break
        if rank > begin:
            missing.append(range(begin, rank))
        begin = rank + 1
    if begin < world_size:
        missing.append(range(begin, world_size))
    return missing


def format_ranges(ranges: Iterable[range]) -> str:
    """Write ranges of ranks: ``3, 17-31``."""
    return ", ".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}" for each in ranges)


def join(traces: Traces) -> list[Session]:
    """Return the sessions in order of time, without columns of times: `align` fills them."""
    offsets = {clock: wall_offset_ns(readings) for clock, readings in traces.clocks.items()}
    spans = {}
    groups: dict[tuple[str, str, str, int, int], list[RankSession]] = defaultdict(list)
    for part in traces.parts:
        offset = offsets.get(part.start.clock, 0)
        first = min(
            part.entered[0] if part.entered else math.inf,
            _first_failed(part),
        )
        last = max(part.left[-1] if part.left else -math.inf, _last_failed(part))
        spans[part] = (int(first) + offset, int(last) + offset)
        of = part.barrier
        key = (of.barrier_type, of.prefix, of.generation, of.instance, of.world_size)
        groups[key].append(part)
    sessions = []
    for (barrier_type, prefix, generation, instance, world_size), parts in groups.items():
        parts.sort(key=lambda part: spans[part])
        split = _split(parts, spans)
        for number, together in enumerate(split, 1):
            name = generation + (f".{instance}" if instance else "")
            name += f" (session {number})" if len(split) > 1 else ""
            kept = _comparable(together, traces.notes)
            if kept:
                kept.sort(key=lambda part: part.start.rank)
                session = Session(barrier_type, prefix, name, world_size, kept)
                sessions.append(_numbered(session, traces))
    return sorted(
        sessions,
        key=lambda session: min(spans[part] for part in session.parts),
    )


def _first_failed(part: RankSession) -> float:
    return part.failed[0].entered_ns if part.failed else math.inf


def _last_failed(part: RankSession) -> float:
    return part.failed[-1].entered_ns + part.failed[-1].waited_ns if part.failed else -math.inf


def _split(
    parts: list[RankSession], spans: dict[RankSession, tuple[int, int]]
) -> list[list[RankSession]]:
    """Separate the sessions of jobs that used the same folder, one after the other.

    Args:
        parts: Of one barrier, in order of time.
        spans: When each began and ended, by its host's own clock.
    """
    by_rank: dict[int, list[RankSession]] = defaultdict(list)
    for part in parts:
        by_rank[part.start.rank].append(part)
    if len({len(of_rank) for of_rank in by_rank.values()}) == 1:
        # Every rank was there every time: the clocks of hosts need not agree at all.
        return [list(session) for session in zip(*by_rank.values(), strict=True)]
    sessions: list[dict[int, RankSession]] = []
    end = 0
    for part in parts:
        began, ended = spans[part]
        if not sessions or part.start.rank in sessions[-1] or began > end + _GAP_NS:
            sessions.append({})
            end = ended
        sessions[-1][part.start.rank] = part
        end = max(end, ended)
    return [list(session.values()) for session in sessions]


def _comparable(parts: list[RankSession], notes: list[str]) -> list[RankSession]:
    """Leave out rounds that few ranks have recorded, where they would take too much memory.

    The columns of a session have room for every round on every rank. Where each rank has rounds of
    its own, which no job does, that is the square of what the files hold.
    """
    counts: Counter[int] = Counter()
    for part in parts:
        counts.update(part.rounds)
        counts.update(failed.round for failed in part.failed)
    cells = len(parts) * len(counts)
    if cells <= max(_SMALL_CELLS, _LEAST_SHARE * counts.total()):
        return parts
    few = {number for number, count in counts.items() if count * _LEAST_SHARE < len(parts)}
    notes.append(
        "rounds that were left out, as there are too many of them and fewer than one rank in "
        f"{_LEAST_SHARE} has recorded them: {len(few)}"
    )
    for part in parts:
        kept = [number not in few for number in part.rounds]
        for name in ("rounds", "entered", "left", "tags"):
            column = getattr(part, name)
            setattr(part, name, array(column.typecode, compress(column, kept)))
        part.failed = [failed for failed in part.failed if failed.round not in few]
    return [part for part in parts if part.rounds or part.failed]


def _numbered(session: Session, traces: Traces) -> Session:
    tags: dict[int, str] = {}
    for part in session.parts:
        # All ranks of a round have its tag, as far as they agree.
        for number, tag in zip(part.rounds, part.tags, strict=True):
            if number not in tags:
                tags[number] = traces.tags[tag]
        for failed in part.failed:
            tags.setdefault(failed.round, failed.tag)
    session.numbers = sorted(tags)
    session.tags = [tags[number] for number in session.numbers]
    session.index_of = {number: index for index, number in enumerate(session.numbers)}
    for part in session.parts:
        for failed in part.failed:
            session.failed.setdefault(session.index_of[failed.round], {})[part.start.rank] = failed
    return session
