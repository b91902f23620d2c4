"""The report brings the clocks of hosts together, and says how well."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barrier_core.observers.trace_format import ClockReading
from barrier_report.make import make_report
from barrier_report.model import Report
from plugins.report.tests.synthetic_traces import BEGAN, Host, SyntheticJob


def report_on(*jobs: SyntheticJob) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs:
            job.write(Path(folder))
        return make_report(Path(folder)).report


def offset_of(report: Report, host: str) -> float:
    return next(fit.offset_secs for fit in report.clocks if fit.host == host)


@st.composite
def machines(draw: st.DrawFn) -> list[Host]:
    """Machines whose clocks have nothing to do with each other."""
    return [
        Host(
            f"host-{number}",
            ahead_secs=draw(st.floats(-30, 30)),
            drift_ppm=draw(st.floats(-80, 80)),
            up_secs=draw(st.floats(1, 1e8)),
        )
        for number in range(draw(st.integers(2, 4)))
    ]


@settings(max_examples=25, deadline=None)
@given(
    hosts=machines(),
    rounds=st.integers(4, 300),
    work_secs=st.sampled_from([0.001, 0.1, 30.0, 1800.0]),
    seed=st.integers(0, 1000),
)
def test_lateness_is_told_as_it_was_whatever_the_clocks_say(
    hosts: list[Host], rounds: int, work_secs: float, seed: int
) -> None:
    job = SyntheticJob(
        hosts * 2,
        rounds=rounds,
        work_secs=work_secs,
        late_secs=lambda rank, number: 0.05 * (rank == 1),
        seed=seed,
    )

    report = report_on(job)

    assert report.ranks[0].rank == 1
    assert report.ranks[0].host == "host-1"
    assert report.ranks[0].times_last == rounds
    # What is left is how differently the releases were seen: 50 us.
    assert report.ranks[0].cost_secs / rounds == pytest.approx(
        job.cost_secs[1] / rounds, abs=100e-6 * len(job.hosts)
    )
    for fit in report.clocks:
        assert fit.rounds == rounds
        assert fit.p99_error_secs < 200e-6


@settings(max_examples=10, deadline=None)
@given(hosts=machines(), seed=st.integers(0, 1000))
def test_offset_and_drift_of_a_host_are_those_of_its_clock(hosts: list[Host], seed: int) -> None:
    report = report_on(SyntheticJob(hosts, rounds=200, work_secs=10.0, seed=seed))

    reference = next(host for host in hosts if offset_of(report, host.name) == 0)
    for host in hosts:
        (fit,) = (fit for fit in report.clocks if fit.host == host.name)
        assert fit.drift_ppm == pytest.approx(host.drift_ppm - reference.drift_ppm, abs=0.5)
        ahead = host.ahead_secs - reference.ahead_secs
        assert fit.offset_secs == pytest.approx(ahead, abs=0.001)


def test_a_clock_that_wanders_for_a_week_is_followed() -> None:
    hosts = [Host("a"), Host("b", drift_ppm=20, wander_secs=0.05)]
    job = SyntheticJob(hosts, rounds=3000, work_secs=200.0)

    report = report_on(job)

    (fit,) = (fit for fit in report.clocks if fit.host == "b")
    # By a straight line it would be 50 ms.
    assert fit.p99_error_secs < 0.002
    assert report.cost_secs == pytest.approx(sum(job.cost_secs), rel=0.1)


def test_hosts_that_never_meet_are_aligned_through_one_that_both_meet() -> None:
    a, b, c = Host("a"), Host("b", ahead_secs=5.0), Host("c", ahead_secs=-70.0)

    report = report_on(
        SyntheticJob([a, b], prefix="left", rounds=60),
        SyntheticJob([b, c], prefix="right", pid=200, seed=2),
    )

    assert offset_of(report, "c") - offset_of(report, "a") == pytest.approx(-70, abs=0.001)
    assert {barrier.prefix for barrier in report.barriers} == {"left", "right"}
    assert all(fit.rounds for fit in report.clocks)
    assert report.notes == []


def test_a_host_that_nobody_meets_is_taken_by_its_wall_clock_and_noted() -> None:
    report = report_on(
        SyntheticJob([Host("a")] * 2, prefix="left"),
        SyntheticJob([Host("b", ahead_secs=3.0)] * 2, prefix="right", rounds=10, pid=200),
    )

    assert report.notes == ["b shares no round with the others: its clock is taken as it is"]
    assert [fit.rounds for fit in report.clocks] == [100, 0]
    assert report.start == pytest.approx(BEGAN + 0.5, abs=0.05)


def test_ranks_of_one_machine_share_its_clock_under_whatever_names() -> None:
    names = [Host(f"container-{number}", clock="boot-id") for number in range(3)]
    job = SyntheticJob(names)

    report = report_on(job)

    assert report.cost_secs == pytest.approx(sum(job.cost_secs), abs=1e-4)
    assert [fit.p99_error_secs for fit in report.clocks] == [0, 0, 0]
    assert [fit.host for fit in report.clocks] == ["container-0", "container-1", "container-2"]


def test_a_failed_round_is_placed_by_its_neighbours() -> None:
    job = SyntheticJob([Host("a"), Host("b", ahead_secs=8, drift_ppm=50), Host("c")], rounds=50)
    job.fail(dead=2, at=BEGAN + 1000)

    report = report_on(job)

    assert report.detail[-1].missing == [2]
    # The failure is long after the last round, and the drift is seen over 25 s only.
    assert [rank.arrived for rank in report.detail[-1].ranks] == pytest.approx([-1, -1], abs=0.01)


def test_a_single_round_is_enough_to_compare() -> None:
    job = SyntheticJob(
        [Host("a"), Host("b", ahead_secs=9)],
        rounds=1,
        late_secs=lambda rank, number: 0.2 * rank,
    )

    report = report_on(job)

    assert report.ranks[0].rank == 1
    assert report.cost_secs == pytest.approx(job.cost_secs[1], abs=0.001)


def test_a_wall_clock_that_jumps_moves_no_round() -> None:
    job = SyntheticJob([Host("a"), Host("b", ahead_secs=2)], rounds=50)
    for rank, host in enumerate(job.hosts):
        readings = [
            ClockReading(
                host.wall_ns(BEGAN + 5 * n) + jump * 10**9, host.monotonic_ns(BEGAN + 5 * n)
            )
            for n, jump in enumerate([0, 0, 0, 3600, 3600])
        ]
        job.lines[rank][-1:-1] = readings

    report = report_on(job)

    assert report.start == pytest.approx(BEGAN + 0.5, abs=0.1)
    assert report.cost_secs == pytest.approx(sum(job.cost_secs), abs=0.02)
    assert report.notes == []


# --- clocks that really differ --------------------------------------------------------------------

RANK = """
import socket, sys, time
from barrier_core import Barrier

class Pair(Barrier):
    barrier_type = "pair"

    def _wait(self, number, timeout_secs, tag):
        line.sendall(b"x")
        line.recv(1)

rank, line = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
barrier = Pair(rank, 2)
for _ in range(50):
    time.sleep(0.01 * rank)  # the subject: it is late
    barrier.execute_barrier()
"""

OWN_CLOCK = ["unshare", "--fork", "--time", "--monotonic"]


def can_set_clocks() -> bool:
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run(
        [*OWN_CLOCK, "1", "true"], stderr=subprocess.DEVNULL, check=False
    ).returncode


@pytest.mark.skipif(not can_set_clocks(), reason="needs root, and Linux's time namespaces")
def test_processes_whose_monotonic_clocks_are_hours_apart_are_aligned(tmp_path: Path) -> None:
    lines = socket.socketpair()
    ranks = [
        subprocess.Popen(
            [
                *OWN_CLOCK,
                f"{rank * 9999}",
                sys.executable,
                "-c",
                RANK,
                f"{rank}",
                f"{line.fileno()}",
            ],
            pass_fds=[line.fileno()],
            env={**os.environ, "BARRIER_TRACE_DIR": str(tmp_path)},
        )
        for rank, line in enumerate(lines)
    ]
    for line in lines:
        line.close()
    assert [rank.wait(60) for rank in ranks] == [0, 0]

    report = make_report(tmp_path).report

    assert [fit.rounds for fit in report.clocks] == [50, 50]
    # The two have one wall clock, seen through the scheduler of a machine that runs tests.
    assert [fit.offset_secs for fit in report.clocks] == pytest.approx([0, 0], abs=0.5)
    assert report.ranks[0].rank == 1
    assert 0.01 * 50 * 0.9 < report.ranks[0].cost_secs < 60
