"""Reports to draw: one that shows everything, and others that are short of something."""

from __future__ import annotations

from typing import Any

import msgspec

from barrier_report.model import (
    BarrierCost,
    ClockFit,
    DetailedRound,
    Failure,
    HeatMap,
    HostCost,
    RankCost,
    RankInRound,
    Report,
    TagCost,
    TrendPoint,
)

START = 1_790_000_000.0
RANKS = 8
LATE_RANK = 5
ROUNDS = 40
HOSTILE = "</script><script>window.hacked = 1</script><!-- <b onload=x> &lt; {{data}} \u2028 'é\""


def host_of(rank: int) -> str:
    return f"gpu-{rank // 4}"


def a_round(number: int) -> DetailedRound:
    """A round a minute; the late rank comes 2 s after the others to every even one."""
    wait = 2.0 if number % 2 == 0 else 0.001
    arrived = {rank: 0.0 if rank == LATE_RANK else -wait + rank / 1e5 for rank in range(RANKS)}
    ranks = [RankInRound(rank, at, 0.0002, "passed") for rank, at in arrived.items()]
    at = START + 60 * number
    return DetailedRound(0, number, f"save step={number}", at, 7 * wait, ranks, [])


def the_failed_round() -> DetailedRound:
    ranks = [RankInRound(rank, -30.0, 0.001 * rank, "dead") for rank in range(RANKS) if rank != 3]
    return DetailedRound(0, ROUNDS, "save step=40", START + 60 * ROUNDS, 0.0, ranks, [3], 1, "3")


def a_report(**changes: Any) -> Report:
    """Eight ranks on two hosts, forty rounds; one rank is late, and at last one is dead."""
    costs = {rank: 280.0 if rank == LATE_RANK else 0.01 * rank for rank in range(RANKS)}
    ranks = [
        RankCost(
            rank=rank,
            host=host_of(rank),
            pid=4000 + rank,
            rounds=ROUNDS,
            times_last=20 if rank == LATE_RANK else 3,
            cost_secs=cost,
            median_lateness_secs=1.0 if rank == LATE_RANK else 0.0001,
            p99_lateness_secs=2.0 if rank == LATE_RANK else 0.001,
            max_lateness_secs=2.0 if rank == LATE_RANK else 0.001,
            waited_secs=1.0 if rank == LATE_RANK else 41.0,
        )
        for rank, cost in sorted(costs.items(), key=lambda item: -item[1])
    ]
    lateness: list[list[float | None]] = [
        [
            2.0 if rank == LATE_RANK and number % 2 == 0 else 0.0001 * rank
            for number in range(1, ROUNDS + 1)
        ]
        for rank in range(RANKS)
    ]
    report = Report(
        source="/scratch/run-41/traces",
        start=START,
        end=START + 60 * ROUNDS + 30,
        rounds=ROUNDS,
        failed=1,
        world_size=RANKS,
        cost_secs=sum(costs.values()),
        barriers=[BarrierCost("tcp_store", "ckpt", "0", RANKS, ROUNDS, 1, sum(costs.values()))],
        ranks=ranks,
        hosts=[
            HostCost("gpu-1", "4-7", 30, 280.13, 0.0002, 0.25),
            HostCost("gpu-0", "0-3", 9, 0.06, -0.0001, 0.0),
        ],
        tags=[TagCost("save step=#", ROUNDS, 1, 280.0, 1.0, LATE_RANK)],
        trend=[
            TrendPoint(START + 600 * i, 10, 70.0, 1.0, 2.0 + i, 0.9, LATE_RANK) for i in range(4)
        ],
        heat=HeatMap(START + 30, 60.0, list(range(RANKS)), lateness),
        detail=[*(a_round(number) for number in range(30, ROUNDS)), the_failed_round()],
        failures=[
            Failure(
                barrier=0,
                round=ROUNDS,
                tag="save step=40",
                at=START + 60 * ROUNDS,
                kind="dead",
                decided_by=0,
                message="round 40 'save step=40' was broken: rank 3 (gpu-0, pid 4003) dead",
                missing="3",
                raised_on="0-2, 4-7",
            )
        ],
        clocks=[ClockFit("gpu-1", 0.25, 3.0, 0.0001, 0.0004, 39)],
        notes=["rank 3: the last record is torn"],
    )
    return msgspec.structs.replace(report, **changes)


def a_slow_host() -> Report:
    """All ranks of one host are late, in turn."""
    hosts = [
        HostCost(f"gpu-{i}", f"{4 * i}-{4 * i + 3}", 10 - i, cost, 0.1, 0.0)
        for i, cost in enumerate([270.0, 10.0])
    ]
    ranks = [
        msgspec.structs.replace(rank, cost_secs=cost, times_last=5)
        for rank, cost in zip(a_report().ranks, [70, 68, 67, 65, 3, 3, 2, 2], strict=True)
    ]
    return a_report(hosts=hosts, ranks=ranks, cost_secs=280.0)


def an_empty_report() -> Report:
    nothing = HeatMap(0.0, 0.0, [], [])
    return Report("/empty", 0, 0, 0, 0, 0, 0, [], [], [], [], [], nothing, [], [], [], [])


def one_rank() -> Report:
    full = a_report()
    return a_report(
        world_size=1,
        failed=0,
        cost_secs=0.0,
        ranks=[msgspec.structs.replace(full.ranks[-1], cost_secs=0.0)],
        hosts=[HostCost("gpu-0", "0", ROUNDS, 0.0, 0.0, 0.0)],
        heat=HeatMap(START, 60.0, [0], [[0.0, None, 0.0]]),
        detail=[
            DetailedRound(0, 1, "", START, 0.0, [RankInRound(0, 0.0, 0.0001, "passed")], []),
        ],
        failures=[],
        trend=[TrendPoint(START, ROUNDS, 0.0, 0.0, 0.0, 0.0, None)],
        notes=[],
    )


def a_large_report() -> Report:
    """As much as a report can hold: the largest heat map, all rounds in detail, many ranks."""
    world_size = 100_000
    rows = list(range(0, 256 * 390, 390))
    model = a_report().ranks[-1]
    ranks = [
        msgspec.structs.replace(
            model, rank=rank, host=f"node-{rank // 8:05}.cluster", cost_secs=1e6 / (1 + position)
        )
        for position, rank in enumerate([*rows, *sorted(set(range(world_size)).difference(rows))])
    ]
    detail = [
        DetailedRound(
            barrier=0,
            round=number,
            tag=f"save step={number}",
            at=START + number * 10,
            cost_secs=1e4 + number,
            ranks=[
                RankInRound(rank, -1.23456789 + rank / 1e6, 0.000123456, "passed")
                for rank in [*rows, world_size - 1]
            ],
            missing=list(range(1, 128, 2)) if number == 7 else [],
            missing_count=world_size // 2 if number == 7 else 0,
            missing_text="1, 3, 5, …" if number == 7 else "",
        )
        for number in range(1, 301)
    ]
    return a_report(
        world_size=world_size,
        rounds=1_000_000,
        ranks=ranks,
        heat=HeatMap(START, 8.0, rows, [[0.0012345 * (1 + r % 7)] * 400 for r in range(256)]),
        trend=[
            TrendPoint(START + 8 * i, 2500, 1e3 + i, 0.0123456, 1.23456, 0.5, 0) for i in range(400)
        ],
        detail=detail,
        failures=a_report().failures * 1500,
    )
