"""Lateness over the whole job: the trend, and the heat map."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from barrier_report.model import HeatMap, TrendPoint
from barrier_report.rounds import Session

_TREND_POINTS = 400
_BUCKETS = 400


class Measured(NamedTuple):
    """A round that passed, with a record of every rank."""

    at: float
    """When the last rank arrived, in seconds since the origin."""
    cost: float
    spread: float
    wait: float
    """The median rank's."""
    median: float
    """The median arrival."""
    last: int
    """The rank that came last."""
    session: int
    """Index of its session."""
    round_index: int
    """Index of the round in the session."""


def trend_of(measured: list[Measured], origin: float) -> list[TrendPoint]:
    """Return the trend over rounds in order of time; ``origin`` is what their times count from."""
    points = []
    count = min(_TREND_POINTS, len(measured))
    for number in range(count):
        first = number * len(measured) // count
        stretch = measured[first : (number + 1) * len(measured) // count]
        charged: defaultdict[int, float] = defaultdict(float)
        for each in stretch:
            charged[each.last] += each.cost
        points.append(
            TrendPoint(
                start=origin + stretch[0].at,
                rounds=len(stretch),
                cost_secs=sum(each.cost for each in stretch),
                median_spread_secs=statistics.median(each.spread for each in stretch),
                max_spread_secs=max(each.spread for each in stretch),
                median_wait_secs=statistics.median(each.wait for each in stretch),
                worst_rank=worst_of(charged),
            )
        )
    return points


def heat_of(
    sessions: list[Session],
    measured: list[Measured],
    shown: list[int],
    origin: float,
    span: tuple[float, float],
) -> HeatMap:
    """Return the greatest lateness of each rank to show, in each bucket of time."""
    start, end = span
    count = max(min(_BUCKETS, len(measured)), 1)
    width = (end - start) / count or 1.0
    rows: dict[int, list[float | None]] = {rank: [None] * count for rank in shown}
    of_sessions: list[list[tuple[Measured, int]]] = [[] for _ in sessions]
    for each in measured:
        of_sessions[each.session].append((each, min(int((each.at - start) / width), count - 1)))
    for session, of_session in zip(sessions, of_sessions, strict=True):
        for rank, arrivals in zip(session.ranks, session.entered, strict=True):
            row = rows.get(rank)
            if row is None:
                continue
            for each, bucket in of_session:
                late = arrivals[each.round_index] - each.median
                known = row[bucket]
                if known is None or late > known:
                    row[bucket] = late
    return HeatMap(
        start=origin + start,
        bucket_secs=width,
        ranks=shown,
        max_lateness_secs=[
            [None if late is None else round(late, 7) for late in rows[rank]] for rank in shown
        ],
    )


def median_of(ordered: Sequence[float]) -> float:
    """Return the median of numbers in order; 0 if there are none."""
    if not ordered:
        return 0.0
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def worst_of(charged: Mapping[int, float]) -> int | None:
    """Return the rank that is charged most; None if none is."""
    return max(charged, key=lambda rank: (charged[rank], -rank)) if charged else None
