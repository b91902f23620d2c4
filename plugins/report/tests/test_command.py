"""``barrier report``, as people and programs use it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from barrier_core import Barrier, BarrierTimeoutError, create_barrier
from barrier_core.observers.trace_observer import TraceObserver
from barrier_core.plugin_api import hookimpl, plugin_manager
from barrier_core.testing.rank_processes import wait_until
from barrier_report.model import Report
from barrier_report.text import duration
from plugins.report.tests.synthetic_traces import BEGAN, Host, SyntheticJob
from tests.support.command import Command


@pytest.fixture
def barrier(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return Command(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The traces of a job in which rank 3 is late, and rank 1 dies at last."""
    job = SyntheticJob(
        [Host("gpu-0"), Host("gpu-0"), Host("gpu-1", ahead_secs=2), Host("gpu-1", ahead_secs=2)],
        rounds=50,
        late_secs=lambda rank, number: 0.2 * (rank == 3),
        tag=lambda number: f"save [step]={number}",
    )
    job.fail(dead=1, at=BEGAN + 100)
    job.write(tmp_path / "traces")
    return tmp_path / "traces"


def test_the_text_says_who_is_late_and_fits_a_screen(barrier: Command, folder: Path) -> None:
    outcome = barrier("report", str(folder))

    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert len(lines) <= 24
    assert lines[0] == "51 rounds of 4 ranks on 2 hosts in 100.5 s, 1 of them failed"
    assert "100% of it for rank 3 (gpu-1)" in " ".join(lines[1:3])
    rows = [line.split() for line in lines]
    ranks = next(n for n, row in enumerate(rows) if row[:1] == ["RANK"])
    assert rows[ranks + 1][:2] == ["3", "gpu-1"]
    assert rows[ranks + 1][3:6] == ["s", "100%", "50"]
    hosts = next(n for n, row in enumerate(rows) if row[:1] == ["HOST"])
    assert rows[hosts + 1][:2] == ["gpu-1", "2-3"]
    tags = next(n for n, row in enumerate(rows) if row[:1] == ["TAG"])
    assert rows[tags + 1][:3] == ["save", "[step]=#", "50"]
    assert (
        "round 51 is broken (dead, decided by rank 0): rank 1 is gone [raised on rank 0, 2-3]"
        in lines
    )
    assert "Clocks: aligned by 50 releases to within" in outcome.out


def test_the_json_is_the_report(barrier: Command, folder: Path) -> None:
    outcome = barrier("report", str(folder), "--json")

    report = msgspec.json.decode(outcome.out, type=Report)
    assert report.ranks[0].rank == 3
    assert report.failures[0].missing == "1"
    assert {path.suffix for path in folder.iterdir()} == {".trace"}


def test_the_perfetto_file_is_written_where_it_is_asked_for(
    barrier: Command, folder: Path, tmp_path: Path
) -> None:
    assert barrier("report", str(folder), "--perfetto", str(tmp_path / "p.json")).status == 0

    assert len(json.loads((tmp_path / "p.json").read_text())["traceEvents"]) > 4 * 50


def test_a_file_that_cannot_be_written_is_named(
    barrier: Command, folder: Path, tmp_path: Path
) -> None:
    outcome = barrier("report", str(folder), "--perfetto", str(tmp_path / "missing" / "p.json"))

    assert outcome.status == 1
    assert f"cannot write {tmp_path}/missing/p.json: No such file" in outcome.err
    assert "RANK" in outcome.out


def test_top_says_how_many_are_shown(barrier: Command, folder: Path) -> None:
    host_a, host_b = barrier("report", str(folder), "--top", "1").out.split("HOST ", 2)[:2]

    assert "gpu-0" not in host_a + host_b


def test_a_folder_without_traces_is_wrong_use(barrier: Command, tmp_path: Path) -> None:
    outcome = barrier("report", str(tmp_path))

    assert outcome.status == 2
    assert "holds no trace; run the job with BARRIER_TRACE_DIR set" in outcome.err


def test_a_job_that_only_failed_has_a_report_too(barrier: Command, tmp_path: Path) -> None:
    job = SyntheticJob([Host("a"), Host("b")], rounds=0)
    job.fail(dead=1, at=BEGAN + 1)
    job.write(tmp_path)

    out = barrier("report", str(tmp_path)).out

    assert "No round can be charged to a rank." in out
    assert "rank 1 is gone [raised on rank 0]" in out


def test_many_failures_and_notes_stay_within_a_screen(barrier: Command, tmp_path: Path) -> None:
    for number in range(9):
        host = Host(f"host-{number}")
        job = SyntheticJob(
            [host, host], rounds=1, generation=str(number), began=BEGAN + 60 * number, pid=number
        )
        job.fail(dead=1, at=BEGAN + 60 * number + 5)
        job.write(tmp_path)

    out = barrier("report", str(tmp_path)).out

    assert len(out.splitlines()) <= 40
    assert "and 6 before" in out
    assert "and 3 more notes, which --json shows" in out


@pytest.mark.parametrize(
    ("hosts", "shown"),
    [
        (["gpu-0.example.org", "gpu-1.example.org"], "gpu-1"),
        (["gpu.a.org", "gpu.b.org"], "gpu.b.org"),
        (["10.0.0.1"], "10.0.0.1"),
    ],
)
def test_hosts_are_shown_without_their_domains_where_that_says_enough(
    barrier: Command, tmp_path: Path, hosts: list[str], shown: str
) -> None:
    job = SyntheticJob(
        [Host(host) for host in [*hosts, hosts[-1]]],
        rounds=5,
        late_secs=lambda rank, number: 0.1 * (rank == len(hosts)),
    )
    job.write(tmp_path)

    lines = barrier("report", str(tmp_path)).out.splitlines()

    first = next(line for line in lines if line.startswith(f"{len(hosts)} "))
    assert first.split()[1] == shown


def test_a_bar_shows_how_far_it_is_on_a_terminal_only(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "barrier_core", "report", str(folder), "--json"]
    env = {**os.environ, "TERM": "xterm"}
    shown = subprocess.run(command, stdout=-1, stderr=theirs, env=env, timeout=60, check=True)
    os.close(theirs)
    bar = os.read(ours, 10_000).decode()
    os.close(ours)
    piped = subprocess.run(command, stdout=-1, stderr=-1, timeout=60, check=True)

    assert "%" in bar
    assert piped.stderr == b""
    assert shown.stdout == piped.stdout


def test_ten_thousand_rounds_of_64_ranks_take_less_than_20_s_and_1_gb(tmp_path: Path) -> None:
    hosts = [Host(f"gpu-{rank // 8}", ahead_secs=rank // 8) for rank in range(64)]
    job = SyntheticJob(hosts, late_secs=lambda rank, _: 0.05 * (rank == 37), rounds=10_000)
    job.write(tmp_path)
    # Processor time, as the machine may do other things; and without coverage, which takes its own.
    command = [sys.executable, "-m", "barrier_core", "report", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)

    assert process.returncode == 0
    assert used.ru_utime + used.ru_stime < 20
    assert used.ru_maxrss < 10**6  # KiB


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 us"),
        (-28e-6, "-28 us"),
        (0.00123, "1.23 ms"),
        (0.5, "500 ms"),
        (12.34, "12.3 s"),
        (185, "3.1 min"),
        (9000, "2.5 h"),
        (864_000, "10.0 days"),
    ],
)
def test_a_duration_is_written_with_a_unit_that_suits_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- from the barrier to the report ---------------------------------------------------------------


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[TraceObserver]:
    """Writes the traces of the ranks of this process."""
    observer = TraceObserver(tmp_path / "traces")
    plugin_manager.register(observer)
    yield observer
    plugin_manager.unregister(observer)
    observer.close()


def test_a_rank_that_is_late_on_purpose_comes_first(
    barrier: Command, observer: TraceObserver, tmp_path: Path
) -> None:
    ranks: list[Barrier] = [
        create_barrier(
            "local", global_rank=rank, global_world_size=4, barrier_prefix="report", timeout_secs=30
        )
        for rank in range(4)
    ]

    entered: list[int] = []

    class Entrance:
        @hookimpl
        def barrier_enter(self, round: int) -> None:
            entered.append(round)

    entrance = Entrance()
    plugin_manager.register(entrance)

    def go(rank: int) -> None:
        for step in range(5):
            if rank == 2:
                wait_until(
                    lambda: entered.count(step + 1) == 3,  # noqa: B023 - called here
                    "the others have come",
                )
                time.sleep(0.05)  # the subject: it is late
            ranks[rank].execute_barrier(tag=f"save step={step}")
        if rank != 1:
            with pytest.raises(BarrierTimeoutError):
                ranks[rank].execute_barrier(timeout_secs=0.2, tag="done")

    threads = [threading.Thread(target=go, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plugin_manager.unregister(entrance)
    for rank in ranks:
        rank.close()

    assert observer.flush(10.0)

    traces = str(tmp_path / "traces")
    report = msgspec.json.decode(barrier("report", traces, "--json").out, type=Report)
    assert (report.ranks[0].rank, report.ranks[0].times_last) == (2, 5)
    assert report.ranks[0].pid == os.getpid()
    assert 0.05 * 5 * 3 * 0.9 < report.ranks[0].cost_secs <= report.cost_secs
    assert (report.tags[0].tag, report.tags[0].rounds) == ("save step=#", 5)
    (failure,) = report.failures
    assert (failure.round, failure.tag) == (6, "done")
    assert (failure.kind, failure.missing) == ("timeout", "1")
    assert failure.raised_on == "0, 2-3"
    assert report.notes == []
