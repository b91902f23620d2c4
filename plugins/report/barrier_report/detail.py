"""The rounds that are shown rank by rank, and those that failed."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from barrier_core.observers.trace_format import FailedRound
from barrier_core.verdict import format_ranks
from barrier_report.model import DetailedRound, Failure, RankInRound
from barrier_report.over_time import Measured
from barrier_report.rounds import Run

_COSTLY = 150
_FAILED = 80
_LAST = 50
_INCOMPLETE = 20


def choose_detail(
    runs: list[Run],
    measured: list[Measured],
    incomplete: list[tuple[float, int, int]],
    shown: list[int],
    origin: float,
) -> list[DetailedRound]:
    """Return the costly rounds, the failed ones, the last, and some of those with gaps.

    Args:
        runs: Every run.
        measured: The rounds that can be charged, in order of time.
        incomplete: The time, run and place of rounds that passed, but with gaps.
        shown: The ranks to show.
        origin: Unix time from which the columns count.
    """
    costly = heapq.nlargest(_COSTLY, measured, key=lambda each: each.cost)
    costs = {(each.run, each.place): each.cost for each in [*costly, *measured[-_LAST:]]}
    failed = [(number, place) for number, run in enumerate(runs) for place in run.failed]
    if len(failed) > _FAILED:  # how it began, and how it ended
        failed = failed[: _FAILED // 2] + failed[-_FAILED // 2 :]
    gaps = [(number, place) for _, number, place in sorted(incomplete)[-_INCOMPLETE:]]
    chosen = {*costs, *failed, *gaps}
    details = [
        _detail(runs[number], number, place, costs.get((number, place), 0.0), set(shown), origin)
        for number, place in chosen
    ]
    return sorted(details, key=lambda detail: detail.at)


def _detail(
    run: Run, number: int, place: int, cost: float, shown: set[int], origin: float
) -> DetailedRound:
    failed = run.failed.get(place, {})
    there = [
        (rank, entered[place], left[place])
        for rank, entered, left in zip(run.ranks, run.entered, run.left, strict=True)
        if not math.isnan(entered[place])
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
    missing = set(range(run.world_size)) - {rank for rank, _, _ in there}
    return DetailedRound(
        barrier=number,
        round=run.numbers[place],
        tag=run.tags[place],
        at=origin + at,
        cost_secs=cost,
        ranks=ranks,
        missing=sorted(missing),
    )


def failures_of(runs: list[Run], origin: float) -> list[Failure]:
    """Return the rounds that did not pass, in order of time."""
    failures = []
    for number, run in enumerate(runs):
        columns = dict(zip(run.ranks, run.left, strict=True))
        for place, by_rank in run.failed.items():
            verdict = _most_telling(list(by_rank.values()))
            failures.append(
                Failure(
                    barrier=number,
                    round=run.numbers[place],
                    tag=verdict.tag,
                    at=origin + min(columns[rank][place] for rank in by_rank),
                    kind=verdict.kind,
                    decided_by=verdict.decided_by,
                    message=verdict.message,
                    missing=verdict.missing,
                    raised_on=format_ranks(by_rank),
                )
            )
    return sorted(failures, key=lambda failure: failure.at)


def _most_telling(verdicts: Sequence[FailedRound]) -> FailedRound:
    """Return one of what ranks have raised: the same everywhere, unless the store was lost."""
    return max(
        verdicts,
        key=lambda verdict: (
            verdict.kind != "store",
            bool(verdict.missing),
            verdict.decided_by is not None,
        ),
    )
