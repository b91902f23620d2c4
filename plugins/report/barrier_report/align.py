"""Aligns the clocks of hosts by the releases of rounds, which all ranks see within a round trip.

A host and the reference host each have a time for the same release. The difference is followed
over the whole job. First a line is fitted to the differences, by medians, so that outliers do not
count. Then the medians of stretches of rounds correct that line, because no clock drifts evenly for
a week.
"""

from __future__ import annotations

import itertools
import math
import statistics
from array import array
from bisect import bisect_right
from dataclasses import dataclass

from barrier_core.plugin_api import ClockReading
from barrier_report.model import ClockFit
from barrier_report.read import Traces
from barrier_report.rounds import Session, wall_offset_ns

_WINDOWS = 256
_PER_WINDOW = 16  # rounds
_FOR_SLOPE = 64  # points; each is paired with each other one
_FEW = 128  # rounds: so few can support a line, but no corrections to it
_FASTEST_DRIFT = 1e-3  # no clock that works drifts more
_NO_ROUND = -1
_LOOKS = 64

_Columns = list[tuple[int, "array[int]"]]
"""For each session of a clock: how many rounds the sessions before it have, and an item for each of
its own."""


@dataclass
class _Clock:
    """Turns a host's monotonic time into seconds since the origin."""

    offset_ns: int
    """To add, before anything else."""
    drift: float = 0.0
    """Seconds per second, to add from `since_ns` on."""
    since_ns: int = 0
    knots_ns: tuple[int, ...] = ()
    corrections: tuple[float, ...] = ()
    """Seconds, to add at the knots, and in proportion between them."""
    median_error: float = 0.0
    p99_error: float = 0.0
    rounds: int = 0

    def seconds(self, moment_ns: int) -> float:
        linear = (moment_ns + self.offset_ns) * 1e-9 + self.drift * (
            (moment_ns - self.since_ns) * 1e-9
        )
        if not self.knots_ns:
            return linear
        after = bisect_right(self.knots_ns, moment_ns)
        if after == 0:
            return linear + self.corrections[0]
        if after == len(self.knots_ns):
            return linear + self.corrections[-1]
        left, right = self.knots_ns[after - 1], self.knots_ns[after]
        share = (moment_ns - left) / (right - left)
        low, high = self.corrections[after - 1], self.corrections[after]
        return linear + low + share * (high - low)


@dataclass
class Aligned:
    """The clocks, and how well they fit."""

    origin_ns: int
    """Unix time from which the columns count."""
    fits: list[ClockFit]
    notes: list[str]


def align(sessions: list[Session], traces: Traces) -> Aligned:
    """Fill the sessions' columns with times of all hosts on the reference clock, in seconds."""
    releases, slots = _releases(sessions)
    by_rounds = sorted(releases, key=lambda clock: -_count(releases[clock]))
    reference = by_rounds[0]
    readings = traces.clocks
    to_unix = wall_offset_ns(readings.get(reference, []))
    parts = [
        part for session in sessions for part in session.parts if part.start.clock == reference
    ]
    origin_ns = to_unix + min(next(part.times()) for part in parts)
    on_session: dict[int, set[str]] = {}
    for clock, columns in releases.items():
        for before, _ in columns:
            on_session.setdefault(before, set()).add(clock)
    clocks = {reference: _Clock(to_unix - origin_ns, rounds=_count(releases[reference]))}
    seen = array("d", [math.nan]) * slots
    _see(seen, releases[reference], clocks[reference])
    place = {clock: number for number, clock in enumerate(by_rounds)}
    waiting = set(by_rounds[1:])
    fresh = [reference]
    # Every round is looked at this often at most, however the traces chain the clocks together.
    looks_left = _LOOKS * sum(_room(columns) for columns in releases.values())
    while fresh and looks_left > 0:
        sharing = {before for clock in fresh for before, _ in releases[clock]}
        near = set().union(*(on_session[before] for before in sharing)) & waiting
        looks_left -= sum(_room(releases[clock]) for clock in near)
        fits = {clock: _fit(releases[clock], seen) for clock in sorted(near, key=place.__getitem__)}
        found = {clock: fit for clock, fit in fits.items() if fit is not None}
        clocks.update(found)
        for clock, fit in found.items():
            _see(seen, releases[clock], fit)
        fresh = list(found)
        waiting.difference_update(found)
    for clock in waiting:
        clocks[clock] = _Clock(wall_offset_ns(readings.get(clock, [])) - origin_ns)
    _fill(sessions, clocks)
    hosts = sorted(
        {(part.start.host, part.start.clock) for session in sessions for part in session.parts}
    )
    notes = [
        f"{host} shares no round with the others: its clock is taken as it is"
        for host, clock in hosts
        if clock in waiting
    ]
    last_of = {
        clock: max(of_clock, key=lambda reading: reading.monotonic_ns)
        for clock, of_clock in readings.items()
    }
    return Aligned(
        origin_ns,
        [_fit_of(host, clocks[clock], last_of.get(clock), origin_ns) for host, clock in hosts],
        notes,
    )


def _releases(sessions: list[Session]) -> tuple[dict[str, _Columns], int]:
    """For each clock, when its first rank left each round of its sessions, in its own time.

    Also returns how many rounds all sessions have.
    """
    releases: dict[str, _Columns] = {}
    before = 0
    for session in sessions:
        here: dict[str, array[int]] = {}
        for part in session.parts:
            column = here.get(part.start.clock)
            if column is None:
                column = here[part.start.clock] = array("q", [_NO_ROUND]) * len(session.numbers)
            for number, left in zip(part.rounds, part.left, strict=True):
                slot = session.index_of[number]
                # The earliest: a delay after the release can only make a rank later.
                if column[slot] == _NO_ROUND or left < column[slot]:
                    column[slot] = left
        for clock, column in here.items():
            releases.setdefault(clock, []).append((before, column))
        before += len(session.numbers)
    return releases, before


def _count(columns: _Columns) -> int:
    return sum(len(column) - column.count(_NO_ROUND) for _, column in columns)


def _room(columns: _Columns) -> int:
    return sum(len(column) for _, column in columns)


def _see(seen: array[float], columns: _Columns, clock: _Clock) -> None:
    """Note when rounds were released, unless a better clock has given the time already."""
    for before, column in columns:
        for slot, moment in enumerate(column, before):
            if moment != _NO_ROUND and math.isnan(seen[slot]):
                seen[slot] = clock.seconds(moment)


def _fit(columns: _Columns, seen: array[float]) -> _Clock | None:
    """Fit a clock to the releases that it shares with those aligned; None if there are none."""
    shared = sorted(
        (moment, when)
        for before, column in columns
        for moment, when in zip(column, seen[before : before + len(column)], strict=True)
        if moment != _NO_ROUND and not math.isnan(when)
    )
    if not shared:
        return None
    since = shared[0][0]
    offset_ns = round(shared[0][1] * 1e9) - since
    # From here on in seconds since the first: times there, and what to add to them.
    points = [
        ((moment - since) * 1e-9, when - (moment + offset_ns) * 1e-9) for moment, when in shared
    ]
    groups = _grouped(points)
    line = groups if len(points) > _FEW else points
    drift = _slope(line[:: len(line) // _FOR_SLOPE + 1])
    level = statistics.median(y - drift * x for x, y in points)
    error = statistics.median(abs(y - drift * x - level) for x, y in points)
    if len(points) < 4 or abs(drift) > _FASTEST_DRIFT or abs(drift) * points[-1][0] < error:
        drift = 0.0  # so few or short rounds show noise only
        level = statistics.median(y for _, y in points)
    clock = _Clock(offset_ns + round(level * 1e9), drift, since, rounds=len(points))
    if len(points) > _FEW:
        clock.knots_ns = tuple(since + round(x * 1e9) for x, _ in groups)
        clock.corrections = tuple(y - drift * x - level for x, y in groups)
    errors = sorted(abs(clock.seconds(moment) - when) for moment, when in shared)
    clock.median_error = errors[len(errors) // 2]
    clock.p99_error = errors[min(len(errors) * 99 // 100, len(errors) - 1)]
    return clock


def _grouped(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the medians of stretches of points; no two have the same first coordinate."""
    count = max(min(_WINDOWS, len(points) // _PER_WINDOW), 1)
    groups: dict[float, float] = {}
    for number in range(count):
        group = points[number * len(points) // count : (number + 1) * len(points) // count]
        x = statistics.median(x for x, _ in group)
        groups[x] = statistics.median(y for _, y in group)
    return list(groups.items())


def _slope(points: list[tuple[float, float]]) -> float:
    """Return the median of the slopes between all points (Theil and Sen)."""
    slopes = [
        (y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2) if x2 > x1
    ]
    return statistics.median(slopes) if slopes else 0.0


def _fill(sessions: list[Session], clocks: dict[str, _Clock]) -> None:
    for session in sessions:
        for part in session.parts:
            seconds = clocks[part.start.clock].seconds
            entered = array("d", [math.nan]) * len(session.numbers)
            left = array("d", [math.nan]) * len(session.numbers)
            for number, came, went in zip(part.rounds, part.entered, part.left, strict=True):
                index = session.index_of[number]
                entered[index] = seconds(came)
                left[index] = seconds(went)
            for failed in part.failed:
                index = session.index_of[failed.round]
                entered[index] = seconds(failed.entered_ns)
                left[index] = seconds(failed.entered_ns + failed.waited_ns)
            session.entered.append(entered)
            session.left.append(left)


def _fit_of(host: str, clock: _Clock, last: ClockReading | None, origin_ns: int) -> ClockFit:
    offset = 0.0
    if last is not None:
        offset = (last.wall_ns - origin_ns) * 1e-9 - clock.seconds(last.monotonic_ns)
    return ClockFit(
        host=host,
        offset_secs=offset,
        drift_ppm=0.0 - clock.drift * 1e6,
        median_error_secs=clock.median_error,
        p99_error_secs=clock.p99_error,
        rounds=clock.rounds,
    )
