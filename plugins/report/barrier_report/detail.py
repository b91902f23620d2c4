"""The rounds that are shown rank by rank, and those that failed."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import chain, islice

from barrier_core.plugin_api import FailedRound, format_ranks
from barrier_report.model import DetailedRound, Failure, RankInRound
from barrier_report.over_time import Measured
from barrier_report.rounds import Session, format_ranges, ranges_missing

_COSTLY = 150
_FAILED = 80
_LAST = 50
_INCOMPLETE = 20
_MISSING = 64


def choose_detail(
    sessions: list[Session],
    measured: list[Measured],
    incomplete: list[tuple[float, int, int]],
    shown: list[int],
    origin: float,
) -> list[DetailedRound]:
    """Return the costly rounds, the failed ones, the last, and some of those with gaps.

    Args:
        sessions: Every session.
        measured: The rounds that can be charged, in order of time.
        incomplete: The time, session and index of rounds that passed, but with gaps.
        shown: The ranks to show.
        origin: Unix time from which the columns count.
    """
    costly = heapq.nlargest(_COSTLY, measured, key=lambda each: each.cost)
    costs = {(each.session, each.round_index): each.cost for each in [*costly, *measured[-_LAST:]]}
    failed = [
        (number, index) for number, session in enumerate(sessions) for index in session.failed
    ]
    if len(failed) > _FAILED:  # keep the first and the last ones
        failed = failed[: _FAILED // 2] + failed[-_FAILED // 2 :]
    gaps = [(number, index) for _, number, index in sorted(incomplete)[-_INCOMPLETE:]]
    chosen = {*costs, *failed, *gaps}
    details = [
        _detail(
            sessions[number], number, index, costs.get((number, index), 0.0), set(shown), origin
        )
        for number, index in chosen
    ]
    return sorted(details, key=lambda detail: detail.at)


def _detail(
    session: Session, number: int, index: int, cost: float, shown: set[int], origin: float
) -> DetailedRound:
    failed = session.failed.get(index, {})
    there = [
        (rank, entered[index], left[index])
        for rank, entered, left in zip(session.ranks, session.entered, session.left, strict=True)
        if not math.isnan(entered[index])
    ]
    last, last_arrived, _ = max(there, key=lambda each: each[1])
    at = min(left for _, _, left in there) if failed else last_arrived
    ranks = [
        RankInRound(
            rank=rank,
            arrived=round(entered - at, 7),
            left=round(left - at, 7),
            outcome=failed[rank].kind if rank in failed else "passed",
        )
        for rank, entered, left in there
        if rank in shown or rank == last
    ]
    missing = ranges_missing(session.world_size, (rank for rank, _, _ in there))
    return DetailedRound(
        barrier=number,
        round=session.numbers[index],
        tag=session.tags[index],
        at=origin + at,
        cost_secs=cost,
        ranks=ranks,
        missing=list(islice(chain.from_iterable(missing), _MISSING)),
        missing_count=sum(map(len, missing)),
        missing_text=format_ranges(missing[:_MISSING]) + (", …" if missing[_MISSING:] else ""),
    )


def failures_of(sessions: list[Session], origin: float) -> list[Failure]:
    """Return the rounds that did not pass, in order of time."""
    failures = []
    for number, session in enumerate(sessions):
        columns = dict(zip(session.ranks, session.left, strict=True))
        for index, by_rank in session.failed.items():
            verdict = _most_telling(list(by_rank.values()))
            failures.append(
                Failure(
                    barrier=number,
                    round=session.numbers[index],
                    tag=verdict.tag,
                    at=origin + min(columns[rank][index] for rank in by_rank),
                    kind=verdict.kind,
                    decided_by=verdict.decided_by,
                    message=verdict.message,
                    missing=verdict.missing,
                    raised_on=format_ranks(by_rank),
                )
            )
    return sorted(failures, key=lambda failure: failure.at)


def _most_telling(verdicts: Sequence[FailedRound]) -> FailedRound:
    """Return the verdict that says most. All are the same, unless a rank has lost the store."""
    return max(
        verdicts,
        key=lambda verdict: (
            verdict.kind != "store",
            bool(verdict.missing),
            verdict.decided_by is not None,
        ),
    )
