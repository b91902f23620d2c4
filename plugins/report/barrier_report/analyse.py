"""Says who costs the job its time: from aligned rounds to the report."""

from __future__ import annotations

import math
import os
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import filterfalse
from operator import sub
from pathlib import Path
from typing import TypeVar

import msgspec

from barrier_core.plugin_api import format_ranks, tag_without_numbers
from barrier_report.align import Aligned
from barrier_report.detail import choose_detail, failures_of
from barrier_report.model import (
    BarrierCost,
    DetailedRound,
    Failure,
    HostCost,
    RankCost,
    Report,
    TagCost,
)
from barrier_report.over_time import Measured, heat_of, median_of, trend_of, worst_of
from barrier_report.read import Progress
from barrier_report.rounds import Session, format_ranges, ranges_missing

_HEAT_ROWS = 256
_TAGS = 500
S = TypeVar("S", DetailedRound, Failure)


@dataclass
class _Sums:
    """What adds up for a rank, a host or a tag."""

    rounds: int = 0
    failed: int = 0
    times_last: int = 0
    cost: float = 0.0
    waited: float = 0.0
    samples: array[float] = field(default_factory=lambda: array("d"))
    """Of lateness; of spread, for a tag."""
    charged: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """By rank."""


def analyse(folder: Path, sessions: list[Session], aligned: Aligned, progress: Progress) -> Report:
    """Return the report on sessions whose columns are filled."""
    analysis = _Analysis(sessions)
    total = sum(len(session.numbers) for session in sessions)
    done = 0
    for number, session in enumerate(sessions):
        for index in analysis.measure(number, session):
            if index % 256 == 0:
                progress("analysing", (done + index) / total)
        done += len(session.numbers)
    analysis.measured.sort()
    return analysis.report(folder, aligned)


class _Analysis:
    def __init__(self, sessions: list[Session]) -> None:
        self._sessions = sessions
        self.measured: list[Measured] = []
        self._ranks: defaultdict[int, _Sums] = defaultdict(_Sums)
        self._hosts: defaultdict[str, _Sums] = defaultdict(_Sums)
        self._tags: defaultdict[str, _Sums] = defaultdict(_Sums)
        self._cost = [0.0] * len(sessions)
        self._incomplete: list[tuple[float, int, int]] = []
        """Rounds that passed without a record of every rank: time, session and index."""

    def measure(self, number: int, session: Session) -> Iterable[int]:
        """Go through a session's rounds; yield the index of each."""
        ranks = session.ranks
        hosts = [part.start.host for part in session.parts]
        by_host = [self._hosts[host].samples for host in hosts]
        by_rank = [self._ranks[rank].samples for rank in ranks]
        all_there = len(ranks) == session.world_size
        rows = zip(
            session.tags,
            zip(*session.entered, strict=True),
            zip(*session.left, strict=True),
            strict=True,
        )
        for index, (tag, arrivals, leaves) in enumerate(rows):
            of_tag = self._tags[tag_without_numbers(tag)]
            of_tag.rounds += 1
            yield index
            if index in session.failed:
                of_tag.failed += 1
                continue
            total = sum(arrivals)
            if not all_there or math.isnan(total):
                at = max(_known(arrivals))
                self._incomplete.append((at, number, index))
                continue
            ordered = sorted(arrivals)
            at, median = ordered[-1], median_of(ordered)
            cost = max(at * len(ordered) - total, 0.0)
            last = arrivals.index(at)
            wait = median_of(sorted(map(sub, leaves, arrivals)))
            spread = at - ordered[0]
            self.measured.append(
                Measured(at, cost, spread, wait, median, ranks[last], number, index)
            )
            self._cost[number] += cost
            for sums in (self._ranks[ranks[last]], self._hosts[hosts[last]], of_tag):
                sums.cost += cost
                sums.times_last += 1
            of_tag.charged[ranks[last]] += cost
            of_tag.samples.append(spread)
            for of_host, of_rank, arrival in zip(by_host, by_rank, arrivals, strict=True):
                late = arrival - median
                of_rank.append(late)
                of_host.append(late)
        for part, came, went in zip(session.parts, session.entered, session.left, strict=True):
            sums = self._ranks[part.start.rank]
            sums.rounds += len(part.rounds) + len(part.failed)
            sums.waited += math.fsum(_known(map(sub, went, came)))

    def report(self, folder: Path, aligned: Aligned) -> Report:
        """Return the report."""
        origin = aligned.origin_ns * 1e-9
        start = min(min(_known(column)) for session in self._sessions for column in session.entered)
        end = max(max(_known(column)) for session in self._sessions for column in session.left)
        ranks = self._rank_costs()
        shown = sorted(cost.rank for cost in ranks[:_HEAT_ROWS])
        detail = choose_detail(self._sessions, self.measured, self._incomplete, shown, origin)
        order = sorted(range(len(self._sessions)), key=lambda number: -self._cost[number])
        position_of = {number: position for position, number in enumerate(order)}

        def renumbered(each: S) -> S:
            return msgspec.structs.replace(each, barrier=position_of[each.barrier])

        return Report(
            source=os.fsencode(folder).decode(errors="replace"),
            start=origin + start,
            end=origin + end,
            rounds=sum(len(session.numbers) for session in self._sessions),
            failed=sum(len(session.failed) for session in self._sessions),
            world_size=max(session.world_size for session in self._sessions),
            cost_secs=math.fsum(self._cost),
            barriers=self._barrier_costs(order),
            ranks=ranks,
            hosts=self._host_costs(aligned),
            tags=self._tag_costs(),
            trend=trend_of(self.measured, origin),
            heat=heat_of(self._sessions, self.measured, shown, origin, (start, end)),
            detail=[renumbered(each) for each in detail],
            failures=[renumbered(each) for each in failures_of(self._sessions, origin)],
            clocks=aligned.fits,
            notes=[*aligned.notes, *self._notes()],
        )

    def _rank_costs(self) -> list[RankCost]:
        last_of = {part.start.rank: part for session in self._sessions for part in session.parts}
        costs = []
        for rank, part in last_of.items():
            sums = self._ranks[rank]
            late = sorted(sums.samples)
            costs.append(
                RankCost(
                    rank=rank,
                    host=part.start.host,
                    pid=part.start.pid,
                    rounds=sums.rounds,
                    times_last=sums.times_last,
                    cost_secs=sums.cost,
                    median_lateness_secs=median_of(late),
                    p99_lateness_secs=late[(len(late) - 1) * 99 // 100] if late else 0.0,
                    max_lateness_secs=late[-1] if late else 0.0,
                    waited_secs=sums.waited,
                )
            )
        return sorted(costs, key=lambda cost: (-cost.cost_secs, cost.rank))

    def _host_costs(self, aligned: Aligned) -> list[HostCost]:
        ranks: defaultdict[str, set[int]] = defaultdict(set)
        for session in self._sessions:
            for part in session.parts:
                ranks[part.start.host].add(part.start.rank)
        offsets = {fit.host: fit.offset_secs for fit in aligned.fits}
        costs = [
            HostCost(
                host=host,
                ranks=format_ranks(ranks[host]),
                times_last=sums.times_last,
                cost_secs=sums.cost,
                median_lateness_secs=median_of(sorted(sums.samples)),
                clock_offset_secs=offsets[host],
            )
            for host, sums in self._hosts.items()
        ]
        return sorted(costs, key=lambda cost: (-cost.cost_secs, cost.host))

    def _tag_costs(self) -> list[TagCost]:
        costs = [
            TagCost(
                tag=tag,
                rounds=sums.rounds,
                failed=sums.failed,
                cost_secs=sums.cost,
                median_spread_secs=median_of(sorted(sums.samples)),
                worst_rank=worst_of(sums.charged),
            )
            for tag, sums in self._tags.items()
        ]
        return sorted(costs, key=lambda cost: (-cost.cost_secs, cost.tag))[:_TAGS]

    def _barrier_costs(self, order: list[int]) -> list[BarrierCost]:
        return [
            BarrierCost(
                barrier_type=session.barrier_type,
                prefix=session.prefix,
                generation=session.generation,
                world_size=session.world_size,
                rounds=len(session.numbers),
                failed=len(session.failed),
                cost_secs=self._cost[number],
            )
            for number, session in ((number, self._sessions[number]) for number in order)
        ]

    def _notes(self) -> list[str]:
        notes = []
        if len({session.world_size for session in self._sessions}) > 1:
            notes.append(
                "these traces have barriers of several sizes: ranks with the same number in "
                "different barriers are counted as one"
            )
        for session in self._sessions:
            unknown = ranges_missing(session.world_size, session.ranks)
            if unknown:
                name = f"{session.barrier_type} barrier {session.prefix!r}, "
                name += f"generation {session.generation}"
                notes.append(
                    f"there is no trace of rank {format_ranges(unknown)} of the {name}: its rounds "
                    "are charged to no rank"
                )
        if self._incomplete:
            notes.append(
                "rounds that passed but lack the record of some rank, and are charged to no rank: "
                f"{len(self._incomplete)}"
            )
        return notes


def _known(moments: Iterable[float]) -> Iterator[float]:
    return filterfalse(math.isnan, moments)
