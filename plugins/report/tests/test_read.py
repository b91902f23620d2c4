"""What the report makes of files that are torn, foreign, incomplete or of several jobs."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barrier_core.observers.trace_format import PassedRound, TraceStart
from barrier_report.make import make_report
from barrier_report.model import Report
from barrier_report.read import NoTraceError
from plugins.report.tests.synthetic_traces import BEGAN, Host, SyntheticJob

A, B = Host("a"), Host("b", ahead_secs=4)


def report_on(folder: Path) -> Report:
    return make_report(folder).report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a job of four ranks, of which the third is late, has left its traces."""
    SyntheticJob([A, A, B, B], rounds=20, late_secs=_third_late).write(tmp_path)
    return tmp_path


def _third_late(rank: int, number: int) -> float:
    return 0.1 * (rank == 2)


def file_of(folder: Path, rank: int) -> Path:
    (path,) = folder.glob(f"rank{rank}-*")
    return path


def test_a_folder_without_traces_is_told_how_to_get_some(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")

    with pytest.raises(NoTraceError, match=r"holds no trace; run the job with BARRIER_TRACE_DIR"):
        make_report(tmp_path)
    with pytest.raises(NoTraceError, match="is not a folder: run the job with BARRIER_TRACE_DIR"):
        make_report(tmp_path / "missing")


def test_a_job_that_has_not_come_to_its_first_round_yet_is_told_apart(tmp_path: Path) -> None:
    SyntheticJob([A], rounds=0).write(tmp_path)

    with pytest.raises(NoTraceError, match="no barrier has been passed, or has failed, yet"):
        make_report(tmp_path)


def test_a_torn_last_line_costs_that_round_only(folder: Path) -> None:
    path = file_of(folder, 3)
    path.write_bytes(path.read_bytes()[:-10])

    report = report_on(folder)

    assert report.rounds == 20
    assert sum(rank.times_last for rank in report.ranks) == 19
    assert report.ranks[0].rank == 2
    assert report.notes == [
        "torn lines, of a rank that was killed while it wrote, or of a full disk: 1, in "
        f"{path.name}",
        "rounds that passed but lack the record of some rank, and are charged to no rank: 1",
    ]
    assert report.detail[-1].missing == [3]


def test_torn_lines_in_the_middle_cost_those_rounds_only(folder: Path) -> None:
    for rank in range(4):
        path = file_of(folder, rank)
        lines = path.read_bytes().split(b"\n")
        lines[7] = lines[7][:20] + b"\xff"
        path.write_bytes(b"\n".join(lines))

    report = report_on(folder)

    assert report.rounds == 19
    (note,) = report.notes
    assert "full disk: 4, in rank0-" in note
    assert note.endswith(".trace, …")


def test_foreign_files_are_noted(folder: Path) -> None:
    (folder / "strange.trace").write_bytes(b"\x00\x01" * 5000)
    (folder / "other.trace").write_bytes(b'["other", 1]\n')
    (folder / "object.trace").write_bytes(b"{}\n")
    (folder / "folder.trace").mkdir()
    (folder / "empty.trace").touch()

    report = report_on(folder)

    assert report.rounds == 20
    assert report.notes == [
        "folder.trace is left out: Is a directory",
        "object.trace is left out: it is not a trace of barrier-core",
        "other.trace is left out: it is not a trace of barrier-core",
        "strange.trace is left out: it is not a trace of barrier-core",
    ]


def test_files_of_a_later_format_are_noted_and_not_guessed_at(folder: Path) -> None:
    path = file_of(folder, 0)
    path.write_bytes(path.read_bytes().replace(b'["trace",1,', b'["trace",2,', 1))

    report = report_on(folder)

    assert report.notes == [
        f"{path.name} is left out: it has format 2, and this version of barrier-core reads "
        "format 1",
        "there is no trace of rank 0 of the tcp_store barrier 'ckpt', generation 0: its rounds "
        "are charged to no rank",
        "rounds that passed but lack the record of some rank, and are charged to no rank: 20",
    ]


def test_lines_and_items_of_a_later_version_are_passed_over(folder: Path) -> None:
    path = file_of(folder, 1)
    text = path.read_bytes().replace(b'"step=7"]', b'"step=7","more"]\n["later",1,2]')
    path.write_bytes(text)

    report = report_on(folder)

    assert report.notes == []
    assert sum(rank.times_last for rank in report.ranks) == 20


def test_rounds_that_were_dropped_for_space_are_noted(folder: Path) -> None:
    for rank in (0, 1):
        path = file_of(folder, rank)
        first, *lines = path.read_bytes().splitlines(keepends=True)
        start = msgspec.json.decode(first, type=TraceStart)
        first = msgspec.json.encode(msgspec.structs.replace(start, before=12)) + b"\n"
        kept = [line for line in lines if not line.startswith(b'["pass"')] + lines[-8:]
        path.write_bytes(b"".join([first, *kept]))

    report = report_on(folder)

    assert report.notes == [
        "records that were dropped for space, or that the disk refused: 24, of rank 0-1",
        "rounds that passed but lack the record of some rank, and are charged to no rank: 12",
    ]
    assert report.ranks[0].times_last == 8


def test_the_parts_of_a_trace_are_put_together_in_order(folder: Path) -> None:
    path = file_of(folder, 0)
    first, *lines = path.read_bytes().splitlines(keepends=True)
    start = msgspec.json.decode(first, type=TraceStart)
    again = msgspec.json.encode(msgspec.structs.replace(start, before=15)) + b"\n"
    path.with_suffix(".old.trace").write_bytes(b"".join([first, *lines[:17]]))
    path.write_bytes(b"".join([again, *lines[:2], *lines[17:]]))

    report = report_on(folder)

    assert report.notes == []
    assert sum(rank.times_last for rank in report.ranks) == 20


def test_a_round_of_a_barrier_that_nobody_introduced_is_passed_over(folder: Path) -> None:
    path = file_of(folder, 0)
    stray = msgspec.json.encode(PassedRound(99, 1, 10**9, 10**6, "stray")) + b"\n"
    path.write_bytes(path.read_bytes() + stray)

    assert report_on(folder).rounds == 20


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_has_happened_to_the_files_there_is_a_report_or_a_clear_error(
    data: st.DataObject,
) -> None:
    job = SyntheticJob([A, B], rounds=6)
    job.fail(dead=1, at=BEGAN + 10)
    with tempfile.TemporaryDirectory() as name:
        job.write(Path(name))
        for path in sorted(Path(name).iterdir()):
            text = bytearray(path.read_bytes())
            for _ in range(data.draw(st.integers(0, 4))):
                start = data.draw(st.integers(0, len(text)))
                length = data.draw(st.integers(0, 30))
                text[start : start + length] = data.draw(
                    st.one_of(
                        st.binary(max_size=8), st.sampled_from([b"9" * 18, b"\n", b'"', b","])
                    )
                )
            path.write_bytes(bytes(text))
        with contextlib.suppress(NoTraceError):
            report = report_on(Path(name))
            assert report.rounds >= 1


def test_generations_of_a_job_are_told_apart(tmp_path: Path) -> None:
    first = SyntheticJob([A, A, B], rounds=5)
    first.fail(dead=2, at=BEGAN + 10)
    first.write(tmp_path)
    SyntheticJob([A, A, B], rounds=7, generation="1", began=BEGAN + 60, pid=200).write(tmp_path)

    report = report_on(tmp_path)

    by_generation = {barrier.generation: barrier for barrier in report.barriers}
    assert {name: b.rounds for name, b in by_generation.items()} == {"0": 6, "1": 7}
    assert [failure.round for failure in report.failures] == [6]
    assert report.barriers[report.failures[0].barrier].generation == "0"
    # A rank has the process of its last session.
    assert {rank.rank: rank.pid for rank in report.ranks} == {0: 200, 1: 201, 2: 202}


def test_jobs_that_shared_the_folder_one_after_the_other_are_told_apart(tmp_path: Path) -> None:
    off = Host("off", ahead_secs=86400)
    for job in range(3):
        began = BEGAN + 3600 * job
        SyntheticJob([A, off], rounds=4 + job, began=began, pid=100 * job, seed=job).write(tmp_path)

    report = report_on(tmp_path)

    rounds = {barrier.generation: barrier.rounds for barrier in report.barriers}
    assert rounds == {"0 (session 1)": 4, "0 (session 2)": 5, "0 (session 3)": 6}
    assert report.notes == []


def test_jobs_are_told_apart_even_where_a_rank_never_came(tmp_path: Path) -> None:
    for job in range(3):
        began = BEGAN + 3600 * job
        this = SyntheticJob([A, A, A], rounds=4 + job, began=began, pid=100 * job)
        if job == 1:
            this.lines[0] = this.lines[0][:3]
        this.write(tmp_path)

    report = report_on(tmp_path)

    rounds = {barrier.generation: barrier.rounds for barrier in report.barriers}
    assert rounds == {"0 (session 1)": 4, "0 (session 2)": 5, "0 (session 3)": 6}
    assert [note for note in report.notes if "(session 2)" in note] == [
        "there is no trace of rank 0 of the tcp_store barrier 'ckpt', generation 0 (session 2): "
        "its rounds are charged to no rank"
    ]
