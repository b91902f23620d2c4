"""The report as plain values: what ``barrier report --json`` prints and the page shows.

All times are in seconds. A moment is in Unix time on the reference clock, to which the clocks of
all hosts are aligned.

* A rank's *lateness* in a round is its arrival minus the median arrival; early ranks have less than
  zero.
* A round's *cost* is what its last rank made the others wait: the sum over all ranks of the last
  arrival minus their own, in rank-seconds. It is charged to the rank that came last, to that rank's
  host, and to the tag.
* A *tag pattern* is a tag whose numbers are replaced: ``save step=1200`` and ``save step=1300`` are
  both ``save step=#``.
"""

from __future__ import annotations

import msgspec

REPORT_VERSION = 1


class BarrierCost(msgspec.Struct, frozen=True):
    """One barrier: a type, prefix and generation, whose rounds are counted from 1."""

    barrier_type: str
    prefix: str
    generation: str
    world_size: int
    rounds: int
    failed: int
    cost_secs: float


class RankCost(msgspec.Struct, frozen=True):
    """One rank over all rounds. If it was restarted, host and pid are those of the last process."""

    rank: int
    host: str
    pid: int
    rounds: int
    times_last: int
    cost_secs: float
    median_lateness_secs: float
    p99_lateness_secs: float
    max_lateness_secs: float
    waited_secs: float
    """What it spent waiting itself."""


class HostCost(msgspec.Struct, frozen=True):
    """All ranks of one host together."""

    host: str
    ranks: str
    """Compressed: ``0-7, 12``."""
    times_last: int
    cost_secs: float
    median_lateness_secs: float
    clock_offset_secs: float
    """Its clock minus the reference clock, at the end of the job."""


class TagCost(msgspec.Struct, frozen=True):
    """All rounds of one tag pattern."""

    tag: str
    rounds: int
    failed: int
    cost_secs: float
    median_spread_secs: float
    """Of the last arrival minus the first."""
    worst_rank: int | None
    """The rank that is charged most."""


class TrendPoint(msgspec.Struct, frozen=True):
    """A stretch of consecutive rounds."""

    start: float
    rounds: int
    cost_secs: float
    median_spread_secs: float
    max_spread_secs: float
    median_wait_secs: float
    worst_rank: int | None


class HeatMap(msgspec.Struct, frozen=True):
    """Lateness of ranks over the whole job, where there are too many rounds to draw each."""

    start: float
    bucket_secs: float
    ranks: list[int]
    """The rows: at most 256 ranks, those charged most, in order of rank."""
    max_lateness_secs: list[list[float | None]]
    """For each row, for each bucket of time; None where the rank has no round."""


class RankInRound(msgspec.Struct, frozen=True):
    """What one rank did in a round that is shown in detail."""

    rank: int
    arrived: float
    """In seconds relative to the round's `DetailedRound.at`."""
    left: float
    """The same; when it went on, or raised."""
    outcome: str
    """``passed``, or the kind of the error: ``timeout``, ``abort``, ``dead``, ``store``, …"""


class DetailedRound(msgspec.Struct, frozen=True):
    """A round that is drawn rank by rank: a costly one, a failed one, or one of the last."""

    barrier: int
    """Index in `Report.barriers`."""
    round: int
    tag: str
    at: float
    """When the last rank arrived; for a failed round, when the first rank left."""
    cost_secs: float
    ranks: list[RankInRound]
    """Of the ranks in `HeatMap.ranks`, and always the last to arrive."""
    missing: list[int]
    """Ranks that have no record of this round although others have; at most the first 64."""
    missing_count: int = 0
    """How many there are."""
    missing_text: str = ""
    """Compressed: ``3, 17-31``; at most 64 ranges, and then an ellipsis."""


class Failure(msgspec.Struct, frozen=True):
    """A round that did not pass."""

    barrier: int
    round: int
    tag: str
    at: float
    kind: str
    decided_by: int | None
    message: str
    """The error as ranks have raised it."""
    missing: str
    """Missing ranks as the verdict names them, compressed: ``3, 17-31``."""
    raised_on: str
    """Ranks whose traces say so, compressed."""


class ClockFit(msgspec.Struct, frozen=True):
    """How well a host's clock could be aligned: what is left of the releases' differences."""

    host: str
    offset_secs: float
    drift_ppm: float
    median_error_secs: float
    p99_error_secs: float
    rounds: int
    """Rounds that the fit rests on; 0 where the host shares none with the others."""


class Report(msgspec.Struct, frozen=True):
    """Everything about one job. Lists of costs are sorted: what costs most comes first."""

    source: str
    """The folder."""
    start: float
    end: float
    rounds: int
    failed: int
    world_size: int
    cost_secs: float
    barriers: list[BarrierCost]
    ranks: list[RankCost]
    hosts: list[HostCost]
    tags: list[TagCost]
    trend: list[TrendPoint]
    """At most 400 points."""
    heat: HeatMap
    """At most 400 buckets."""
    detail: list[DetailedRound]
    """At most 300, in order of time."""
    failures: list[Failure]
    clocks: list[ClockFit]
    notes: list[str]
    """What the reader should know: torn or missing files, rounds lost to rotation, clocks that
    could not be aligned."""
    version: int = REPORT_VERSION
