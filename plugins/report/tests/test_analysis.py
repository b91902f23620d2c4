"""What the report says of a job of which everything is known."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barrier_report.make import Made, make_report
from barrier_report.model import Report
from barrier_report.perfetto import write_perfetto
from plugins.report.tests.synthetic_traces import BEGAN, Host, SyntheticJob

HOSTS = [Host("a"), Host("a"), Host("b", ahead_secs=2, drift_ppm=30), Host("b", 2, 30)]
TOLERANCE = 200e-6 * len(HOSTS)
"""In rank-seconds per round: what the releases' differences can add to or take from a cost."""


@pytest.fixture(scope="module")
def job() -> SyntheticJob:
    """Rank 3 is late in every save, rank 0 a little in the tenth part of the others."""

    def late(rank: int, number: int) -> float:
        if rank == 3 and number % 4 == 0:
            return 0.2
        return 0.05 * (rank == 0 and number % 10 == 1)

    job = SyntheticJob(
        HOSTS,
        rounds=1000,
        late_secs=late,
        tag=lambda number: f"save step={number}" if number % 4 == 0 else "gradients",
    )
    job.fail(dead=1, at=BEGAN + 800)
    return job


@pytest.fixture(scope="module")
def made(job: SyntheticJob, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("traces")
    job.write(folder)
    return make_report(folder)


@pytest.fixture
def report(made: Made) -> Report:
    return made.report


def test_a_rounds_cost_is_charged_to_the_rank_that_came_last(
    job: SyntheticJob, report: Report
) -> None:
    costs = {rank.rank: rank.cost_secs for rank in report.ranks}
    assert costs == pytest.approx(dict(enumerate(job.cost_secs)), abs=TOLERANCE * 1000)
    assert [rank.rank for rank in report.ranks[:2]] == [3, 0]
    assert report.cost_secs == pytest.approx(sum(job.cost_secs), abs=TOLERANCE * 1000)
    assert sum(costs.values()) == pytest.approx(report.cost_secs)
    # Nearly: the others differ by chance, and chance can be less than what the clocks show.
    last = Counter(came.index(max(came)) for came in job.arrivals)
    for rank in report.ranks:
        assert rank.times_last == pytest.approx(last[rank.rank], abs=20)


def test_a_ranks_lateness_is_its_distance_from_the_median(
    job: SyntheticJob, report: Report
) -> None:
    for rank in report.ranks:
        late = sorted(came[rank.rank] - statistics.median(came) for came in job.arrivals)
        assert rank.median_lateness_secs == pytest.approx(late[500], abs=3e-4)
        assert rank.p99_lateness_secs == pytest.approx(late[989], abs=3e-4)
        assert rank.max_lateness_secs == pytest.approx(late[-1], abs=3e-4)
        waited = sum(max(came) - came[rank.rank] for came in job.arrivals)
        failed = 1.0 * (rank.rank != 1)
        assert rank.waited_secs == pytest.approx(waited + failed, abs=1e-3 * 1000)
        assert rank.rounds == 1000 + (rank.rank != 1)


def test_hosts_have_what_their_ranks_have(report: Report) -> None:
    b, a = report.hosts
    costs = {rank.rank: rank.cost_secs for rank in report.ranks}
    assert (a.host, a.ranks, b.host, b.ranks) == ("a", "0-1", "b", "2-3")
    assert a.cost_secs == pytest.approx(costs[0] + costs[1])
    assert a.times_last + b.times_last == 1000
    assert b.clock_offset_secs - a.clock_offset_secs == pytest.approx(2, abs=0.05)


def test_tags_are_told_without_their_numbers(report: Report) -> None:
    save, gradients = report.tags[:2]
    assert (save.tag, save.rounds, save.failed, save.worst_rank) == ("save step=#", 250, 0, 3)
    assert save.median_spread_secs == pytest.approx(0.205, abs=0.01)
    assert (gradients.tag, gradients.rounds) == ("gradients", 750)
    assert report.tags[2].tag == "save"
    assert report.tags[2].failed == 1


def test_the_trend_covers_every_round_in_order(report: Report) -> None:
    assert len(report.trend) == 400
    assert sum(point.rounds for point in report.trend) == 1000
    assert sum(point.cost_secs for point in report.trend) == pytest.approx(report.cost_secs)
    assert [p.start for p in report.trend] == sorted(p.start for p in report.trend)
    assert {point.worst_rank for point in report.trend} == {0, 1, 2, 3}
    assert max(point.max_spread_secs for point in report.trend) == pytest.approx(0.21, abs=0.01)


def test_the_heat_map_has_every_rank_and_the_greatest_lateness(report: Report) -> None:
    heat = report.heat
    assert heat.ranks == [0, 1, 2, 3]
    assert {len(row) for row in heat.max_lateness_secs} == {400}
    for rank in report.ranks:
        row = [late for late in heat.max_lateness_secs[rank.rank] if late is not None]
        assert max(row) == pytest.approx(rank.max_lateness_secs, abs=1e-6)
    assert heat.start + 400 * heat.bucket_secs == pytest.approx(report.end)


def test_the_detail_has_the_costly_the_failed_and_the_last_rounds(report: Report) -> None:
    assert len(report.detail) <= 300
    assert [each.at for each in report.detail] == sorted(each.at for each in report.detail)
    rounds = {each.round for each in report.detail}
    assert set(range(951, 1002)) <= rounds
    costly = [each for each in report.detail if each.round % 4 == 0]
    assert len(costly) >= 150
    for each in costly:
        assert each.tag == f"save step={each.round}"
        assert max(each.ranks, key=lambda rank: rank.arrived).rank == 3
        assert max(rank.arrived for rank in each.ranks) == 0
        assert {rank.outcome for rank in each.ranks} == {"passed"}
        assert each.missing == []


def test_a_failed_round_has_its_verdict_and_costs_nobody(report: Report) -> None:
    (failure,) = report.failures
    (detail,) = (each for each in report.detail if each.round == 1001)
    assert (failure.kind, failure.decided_by, failure.missing) == ("dead", 0, "1")
    assert failure.raised_on == "0, 2-3"
    assert failure.message.startswith("round 1001 is broken (dead, decided by rank 0)")
    assert failure.at == pytest.approx(BEGAN + 801, abs=0.1)
    assert (detail.cost_secs, detail.missing) == (0, [1])
    assert {rank.outcome for rank in detail.ranks} == {"dead"}
    assert (report.rounds, report.failed) == (1001, 1)


def test_the_report_can_be_read_back_from_its_json(report: Report) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def events_of(made: Made, path: Path) -> list[dict[str, Any]]:
    write_perfetto(made, path)
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def test_the_perfetto_file_has_a_process_per_host_and_a_thread_per_rank(
    made: Made, tmp_path: Path
) -> None:
    events = events_of(made, tmp_path / "perfetto.json")

    names = {(e["name"], e["pid"], e["tid"]): e["args"] for e in events if e["ph"] == "M"}
    assert names["process_name", 1, 0] == {"name": "a"}
    assert names["process_name", 2, 0] == {"name": "b"}
    assert names["thread_name", 2, 3] == {"name": "rank 3"}
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == 4 * 1000 + 3
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in slices)
    (first,) = (e for e in slices if e["tid"] == 3 and e["args"]["round"] == 4)
    assert first["name"] == "save step=4"
    failed = [event for event in slices if "outcome" in event["args"]]
    assert {event["args"]["outcome"] for event in failed} == {"dead"}
    last = [event for event in events if event["ph"] == "i"]
    assert len(last) == 1000
    assert sum(event["args"]["cost_secs"] for event in last) == pytest.approx(
        made.report.cost_secs, rel=1e-3
    )


def test_a_second_barrier_has_rows_of_its_own_in_the_perfetto_file(tmp_path: Path) -> None:
    SyntheticJob(HOSTS, rounds=3).write(tmp_path / "traces")
    later = SyntheticJob(HOSTS, rounds=3, prefix="eval", pid=200, began=BEGAN + 1)
    later.write(tmp_path / "traces")

    events = events_of(make_report(tmp_path / "traces"), tmp_path / "perfetto.json")

    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"rank 3", "rank 3 tcp_store eval"} <= names


def test_barriers_of_several_sizes_are_noted(tmp_path: Path) -> None:
    SyntheticJob(HOSTS, rounds=3).write(tmp_path)
    SyntheticJob(HOSTS[:2], rounds=3, prefix="pair", pid=200).write(tmp_path)

    report = make_report(tmp_path).report

    assert report.world_size == 4
    assert report.notes[0].startswith("these traces have barriers of several sizes")


# --- jobs that end badly --------------------------------------------------------------------------


def test_a_job_of_which_no_round_passed_has_a_report(tmp_path: Path) -> None:
    job = SyntheticJob(HOSTS, rounds=0)
    job.fail(dead=1, at=BEGAN + 1)
    job.write(tmp_path / "traces")

    made = make_report(tmp_path / "traces")

    assert (made.report.rounds, made.report.failed, made.report.cost_secs) == (1, 1, 0)
    assert [rank.rank for rank in made.report.ranks] == [0, 2, 3]
    assert made.report.trend == []
    assert made.report.failures[0].missing == "1"
    assert len(events_of(made, tmp_path / "perfetto.json")) > 3


@settings(deadline=None)  # an example writes and reads files
@given(lost=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=40))
def test_rounds_with_gaps_are_shown_and_charged_to_no_rank(
    lost: set[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = SyntheticJob(HOSTS, rounds=12)
    whole = set(range(1, 13)) - {number for _, number in lost}
    for rank, lines in enumerate(job.lines):
        job.lines[rank] = [
            line for line in lines if (rank, getattr(line, "round", None)) not in lost
        ]
    folder = tmp_path_factory.mktemp("traces")
    job.write(folder)

    report = make_report(folder).report

    assert sum(rank.times_last for rank in report.ranks) == len(whole)
    for detail in report.detail:
        assert detail.missing == sorted(r for r, number in lost if number == detail.round)
    shown = {detail.round for detail in report.detail}
    assert shown == {number for number in range(1, 13) if {(r, number) for r in range(4)} - lost}


def test_a_thousand_rounds_of_64_ranks(tmp_path: Path) -> None:
    hosts = [Host(f"gpu-{rank // 8}", rank // 8, rank // 8 - 4) for rank in range(64)]
    SyntheticJob(hosts, late_secs=lambda rank, _: 0.05 * (rank == 37), rounds=1000).write(tmp_path)
    heard: list[tuple[str, float]] = []

    report = make_report(tmp_path, lambda what, done: heard.append((what, done))).report

    assert (report.ranks[0].rank, report.ranks[0].times_last) == (37, 1000)
    assert report.hosts[0].host == "gpu-4"
    assert [what for what, _ in heard] == sorted((what for what, _ in heard), reverse=True)
    assert all(0 <= done <= 1 for _, done in heard)
