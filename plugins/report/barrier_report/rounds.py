"""Joins the records that ranks have written of the same rounds."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import defaultdict
from dataclasses import dataclass, field

from barrier_core.plugin_api import ClockReading, FailedRound
from barrier_report.read import RankSession, Traces

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
            together.sort(key=lambda part: part.start.rank)
            sessions.append(
                _numbered(Session(barrier_type, prefix, name, world_size, together), traces)
            )
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
