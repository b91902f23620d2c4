"""Puts together what the ranks have written of the same rounds."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import defaultdict
from dataclasses import dataclass, field

from barrier_core.observers.trace_format import ClockReading, FailedRound
from barrier_report.read import Life, Traces

# Clocks of hosts may differ by so much and their rounds still be taken for those of one run.
_GAP_NS = 60 * 10**9


@dataclass(eq=False)
class Run:
    """One barrier on all its ranks, from the first round to the last.

    The columns have an item for each of `numbers`, in seconds since the report's origin; not a
    number where the rank has no record of the round.
    """

    barrier_type: str
    prefix: str
    generation: str
    world_size: int
    lives: list[Life]
    """By rank."""
    numbers: list[int] = field(default_factory=list)
    """Of the rounds of which there is a record."""
    index: dict[int, int] = field(default_factory=dict)
    """Where in `numbers` a round is."""
    tags: list[str] = field(default_factory=list)
    entered: list[array[float]] = field(default_factory=list)
    """A column for each of `lives`."""
    left: list[array[float]] = field(default_factory=list)
    failed: dict[int, dict[int, FailedRound]] = field(default_factory=dict)
    """By index of the round and rank."""

    @property
    def ranks(self) -> list[int]:
        """The ranks of which there are records, in order."""
        return [life.start.rank for life in self.lives]


def wall_offset_ns(readings: list[ClockReading]) -> int:
    """Return Unix time minus monotonic time by a host's own wall clock; jumps are outvoted."""
    return statistics.median_low([r.wall_ns - r.monotonic_ns for r in readings] or [0])


def join(traces: Traces) -> list[Run]:
    """Return the runs in order of time; the columns of times are still to be filled."""
    offsets = {clock: wall_offset_ns(readings) for clock, readings in traces.clocks.items()}
    spans = {}
    groups: dict[tuple[str, str, str, int, int], list[Life]] = defaultdict(list)
    for life in traces.lives:
        offset = offsets.get(life.start.clock, 0)
        first = min(life.entered[0] if life.entered else math.inf, _first_failed(life))
        last = max(life.left[-1] if life.left else -math.inf, _last_failed(life))
        spans[life] = (int(first) + offset, int(last) + offset)
        of = life.barrier
        key = (of.barrier_type, of.prefix, of.generation, of.instance, of.world_size)
        groups[key].append(life)
    runs = []
    for (barrier_type, prefix, generation, instance, world_size), lives in groups.items():
        lives.sort(key=lambda life: spans[life])
        split = _split(lives, spans)
        for number, together in enumerate(split, 1):
            name = generation + (f".{instance}" if instance else "")
            name += f" (run {number})" if len(split) > 1 else ""
            together.sort(key=lambda life: life.start.rank)
            runs.append(_numbered(Run(barrier_type, prefix, name, world_size, together), traces))
    return sorted(runs, key=lambda run: min(spans[life] for life in run.lives))


def _first_failed(life: Life) -> float:
    return life.failed[0].entered_ns if life.failed else math.inf


def _last_failed(life: Life) -> float:
    return life.failed[-1].entered_ns + life.failed[-1].waited_ns if life.failed else -math.inf


def _split(lives: list[Life], spans: dict[Life, tuple[int, int]]) -> list[list[Life]]:
    """Tell runs apart that look the same: jobs that shared a folder, one after the other.

    Args:
        lives: Of one barrier, in order of time.
        spans: When each began and ended, by its host's own clock.
    """
    by_rank: dict[int, list[Life]] = defaultdict(list)
    for life in lives:
        by_rank[life.start.rank].append(life)
    if len({len(of_rank) for of_rank in by_rank.values()}) == 1:
        # Every rank was there every time: the clocks of hosts need not agree at all.
        return [list(run) for run in zip(*by_rank.values(), strict=True)]
    runs: list[dict[int, Life]] = []
    end = 0
    for life in lives:
        began, ended = spans[life]
        if not runs or life.start.rank in runs[-1] or began > end + _GAP_NS:
            runs.append({})
            end = ended
        runs[-1][life.start.rank] = life
        end = max(end, ended)
    return [list(run.values()) for run in runs]


def _numbered(run: Run, traces: Traces) -> Run:
    tags: dict[int, str] = {}
    for life in run.lives:
        # All ranks of a round have its tag, as far as they agree.
        for number, tag in zip(life.rounds, life.tags, strict=True):
            if number not in tags:
                tags[number] = traces.tags[tag]
        for failed in life.failed:
            tags.setdefault(failed.round, failed.tag)
    run.numbers = sorted(tags)
    run.tags = [tags[number] for number in run.numbers]
    run.index = {number: place for place, number in enumerate(run.numbers)}
    for life in run.lives:
        for failed in life.failed:
            run.failed.setdefault(run.index[failed.round], {})[life.start.rank] = failed
    return run
