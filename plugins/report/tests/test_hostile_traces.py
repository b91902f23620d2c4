"""Traces made to do harm: the report ends, takes little, and writes only where it may."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unicodedata import bidirectional, category
from unittest import mock

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from barrier_core.cli import main
from barrier_core.discovery.finder import COMMANDS, find_plugins
from barrier_core.observers.trace_format import TRACE_FORMAT, PassedRound
from barrier_report.files import read_lines
from barrier_report.make import make_report
from barrier_report.page import render_page
from plugins.report.tests.reports import an_empty_report
from plugins.report.tests.synthetic_traces import Host, SyntheticJob
from tests.support.sizes import size

COMMANDS_FOUND = find_plugins(COMMANDS)
MEMORY = 700 * 2**20
"""Address space that a report on a small folder may take: what Python and the libraries map."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The traces of two ranks, of which the second is late."""
    job = SyntheticJob([Host("a"), Host("a")], rounds=5, late_secs=lambda rank, _: 0.1 * rank)
    job.write(tmp_path / "traces")
    return tmp_path / "traces"


def report(*arguments: str | Path) -> Result:
    # To look for the command in all that is installed takes longer than most of these reports.
    with mock.patch("barrier_core.cli.commands.find_plugins", return_value=COMMANDS_FOUND):
        return CliRunner().invoke(main, ["report", *map(str, arguments)], prog_name="barrier")


def is_safe(output: str) -> bool:
    """Whether no character of a text, which may have many lines, can steer a terminal."""
    found = {*output} - {"\n"}
    return not any(
        category(character) in ("Cc", "Cs", "Zl", "Zp")
        or bidirectional(character)
        in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
        for character in found
    )


def report_in_little_memory(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "barrier_core", "report", str(folder)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def a_file(folder: Path, *lines: list[Any], name: str = "hostile.trace") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def start(rank: int = 0, host: str = "h", clock: str = "c", pid: int = 1) -> list[Any]:
    return ["trace", TRACE_FORMAT, rank, host, pid, clock, 1, 0]


def barrier(world_size: int, number: int = 0) -> list[Any]:
    return ["barrier", number, "tcp_store", "ckpt", "0", 0, world_size]


def passed(number: int, entered_ns: int = 10**9, barrier: int = 0, tag: str = "t") -> list[Any]:
    return ["pass", barrier, number, entered_ns, 10**6, tag]


# --- the terminal ---------------------------------------------------------------------------------


def test_names_tags_and_messages_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b]0;renamed\x07\x9b31m\u202e\r\n"
    for rank in range(2):
        head = [start(rank, f"{evil}{rank}", evil), barrier(2)]
        rounds = [passed(1, 10**9 * (1 + rank), tag=evil)]
        failed = ["fail", 0, 2, 10**10, 10**9, evil, evil, None, evil, evil]
        a_file(tmp_path / "t", *head, *rounds, failed, name=f"{rank}.trace")
    (tmp_path / "t" / f"{evil}.trace").write_text("no trace")

    for arguments in ([], ["--json"]):
        result = report(tmp_path / "t", *arguments)
        assert result.exit_code == 0
        assert is_safe(result.output)
        assert r"\u001b[2J\u001b]0;renamed\u0007\u009b31m\u202e" in result.output
    result = report(tmp_path / evil.strip())
    assert result.exit_code == 2
    assert is_safe(result.output)


def test_names_that_are_no_text_can_be_shown_and_written(tmp_path: Path, folder: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff")
    folder.rename(odd)
    (odd / os.fsdecode(b"\xfe.trace")).write_text("no trace")

    assert report(odd, "--perfetto", tmp_path / "p.json").exit_code == 0
    assert json.loads(report(odd, "--json").stdout)["source"].endswith("/\ufffd")


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    a_file(tmp_path, start(), barrier(1), ["fail", 0, 1, 1, 1, "", "abort", 0, "", "x" * 10**6])

    assert len(report(tmp_path).output) < 10_000


# --- files that are no files ----------------------------------------------------------------------


def test_a_pipe_named_like_a_trace_is_left_out(folder: Path) -> None:
    os.mkfifo(folder / "pipe.trace")
    (folder / "null.trace").symlink_to(os.devnull)

    notes = make_report(folder).report.notes

    assert notes == [f"{name}.trace is left out: Not a regular file" for name in ("null", "pipe")]


def test_a_link_to_a_folder_or_a_trace_is_read(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    moved = next(folder.iterdir()).rename(tmp_path / "moved")
    (folder / "linked.trace").symlink_to(moved)

    assert make_report(tmp_path / "link").report.ranks[0].rank == 1


def test_a_huge_sparse_file_takes_no_memory_or_time(folder: Path) -> None:
    path = next(folder.iterdir())
    os.truncate(path, 2**40)
    with path.open("r+b") as file:
        line = b"\n" + msgspec.json.encode(PassedRound(0, 6, 1, 1, "after the hole")) + b"\n"
        file.seek(2**40 - len(line))
        file.write(line)

    result = report_in_little_memory(folder)

    assert result.returncode == 0, result.stderr
    assert "6 rounds of 2 ranks" in result.stdout
    assert f"of a full disk: 1, in {path.name}" in result.stdout


@pytest.mark.parametrize("line", [b"[" * 10**6, b'["later",' * 10**5, b"x" * 20 * 2**20])
def test_a_nested_or_endless_line_is_a_torn_one(folder: Path, line: bytes) -> None:
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes() + line + b"\n" + msgspec.json.encode(passed(6)) + b"\n")
    (folder / "first.trace").write_bytes(line)

    report = make_report(folder).report

    assert report.rounds == 6
    assert "first.trace is left out: it is not a trace of barrier-core" in report.notes
    assert any(note.startswith("torn lines") and ": 1, in" in note for note in report.notes)


@given(
    text=st.lists(st.sampled_from([b"\n", b"a", b"bb", b"c" * 9]), max_size=20).map(b"".join),
    piece=st.integers(1, 8),
)
def test_lines_are_the_same_in_whatever_pieces_they_are_read(text: bytes, piece: int) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        read = list(read_lines(Path(file.name), piece))

    assert [position for _, position in read][-1:] in ([], [len(text)])
    lines = b"".join(lines for lines, _ in read).split(b"\n")
    for line, whole in zip(lines, text.split(b"\n"), strict=True):
        assert line == whole or (line == b"\0" and len(whole) > piece)


# --- claims ---------------------------------------------------------------------------------------


def test_a_claimed_world_size_takes_no_memory(tmp_path: Path) -> None:
    failed = ["fail", 0, 2, 10**10, 10**9, "t", "abort", 0, "0-16777214", "m"]
    a_file(tmp_path, start(7), barrier(2**24 - 1), *map(passed, (1, 3)), failed)

    result = report_in_little_memory(tmp_path)

    assert result.returncode == 0, result.stderr
    assert "there is no trace of rank 0-6, 8-16777214 of the tcp_store barrier" in result.stdout
    detail = make_report(tmp_path).report.detail[0]
    assert len(detail.missing) == 64
    assert detail.missing_count == 2**24 - 2
    assert detail.missing_text == "0-6, 8-16777214"


@pytest.mark.parametrize("each", ["rounds", "clocks", "barriers"])
def test_ranks_that_have_nothing_in_common_take_no_room_for_what_they_could_have(
    tmp_path: Path, each: str
) -> None:
    lines: list[list[Any]] = []
    for n in range(20_000):
        lines.append(start(n, clock=str(n) if each == "clocks" else "c"))
        lines.append(["barrier", n, "t", str(n) if each == "barriers" else "p", "0", 0, 2])
        lines.append(passed(n + 1, barrier=n))
    a_file(tmp_path, *lines, start(), barrier(2), passed(1))

    result = report_in_little_memory(tmp_path)

    assert result.returncode in (0, 2), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "value", ["-1", "9223372036854775807", "9" * 30, "9" * 5000, "1e400", "NaN", "-0.5", "null"]
)
@pytest.mark.parametrize("place", [2, 4, 6, 7])
def test_a_number_that_cannot_be_is_a_damaged_line(
    tmp_path: Path, folder: Path, value: str, place: int
) -> None:
    line = json.loads(json.dumps(start()))
    head = ",".join(value if n == place else json.dumps(item) for n, item in enumerate(line))
    (folder / "a.trace").write_text(f'[{head}]\n["clock",{value},{value}]\n')
    numbers = f'["pass",0,{value},{value},{value},""]\n["clock",{value},1]\n'
    with next(folder.glob("rank*")).open("a") as file:
        file.write(numbers)

    result = report(folder, "--json", "--perfetto", tmp_path / "p.json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["rounds"] == 5


# --- what it writes -------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--html", "--perfetto"])
@pytest.mark.parametrize("dangling", [True, False])
def test_nothing_is_written_through_a_link(
    tmp_path: Path, folder: Path, option: str, dangling: bool
) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_text("precious")
    (tmp_path / "out").symlink_to(target)

    result = report(folder, option, tmp_path / "out")

    assert result.exit_code == 1
    assert f"cannot write {tmp_path}/out: it is a symbolic link; remove it" in result.stderr
    assert (tmp_path / "out").is_symlink()
    assert not target.exists() if dangling else target.read_text() == "precious"


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path, folder: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    result = report(folder, "--perfetto", tmp_path / "pipe")

    assert result.exit_code == 1
    assert "it is no regular file; give another name" in result.stderr
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_is_there_whole_or_not_at_all(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "p.json").write_text("older")
    monkeypatch.setattr("barrier_report.perfetto._events_of", break_off)

    result = report(folder, "--perfetto", tmp_path / "p.json")

    assert f"cannot write {tmp_path}/p.json: No space left on device" in result.stderr
    assert (tmp_path / "p.json").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "traces"]


# --- anything -------------------------------------------------------------------------------------

SOME_NUMBERS = st.one_of(
    st.integers(0, 3),
    st.sampled_from([-1, 2**24 - 1, 2**24, 2**53, 2**61, 2**63, 2**64, 10**30, 0.5, None]),
)
SOME_TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "</script><script>x", "<!--", "\x1b[2J", "\u2028", "{{data}}", "0-9"]
    ),
    st.text(max_size=5),
)
SOME_LINES: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=30),
    st.tuples(
        st.sampled_from(["trace", "clock", "barrier", "pass", "fail", "later"]),
        st.lists(st.one_of(SOME_NUMBERS, SOME_TEXTS), max_size=9),
    ).map(lambda line: msgspec.json.encode([line[0], *line[1]], enc_hook=str)),
    st.tuples(SOME_NUMBERS, SOME_TEXTS, SOME_TEXTS).map(
        lambda of: json.dumps(["trace", 1, of[0], of[1], 1, of[2], 1, 0]).encode()
    ),
    st.tuples(SOME_TEXTS, SOME_NUMBERS).map(
        lambda of: json.dumps(["barrier", 0, "t", of[0], "0", 0, of[1]]).encode()
    ),
    st.tuples(SOME_NUMBERS, SOME_NUMBERS, SOME_NUMBERS, SOME_TEXTS).map(
        lambda of: json.dumps(["pass", 0, *of]).encode()
    ),
    st.tuples(SOME_NUMBERS, SOME_NUMBERS, SOME_TEXTS, SOME_TEXTS, SOME_NUMBERS, SOME_TEXTS).map(
        lambda of: json.dumps(["fail", 0, of[0], of[1], 1, *of[2:], of[3]]).encode()
    ),
)
HEAD: list[list[Any]] = [start(), barrier(1), passed(1)]
SOME_FILES = st.tuples(st.booleans(), st.lists(SOME_LINES, max_size=8)).map(
    lambda of: b"\n".join([msgspec.json.encode(line) for line in HEAD if of[0]] + of[1])
)


@pytest.mark.fuzz
@settings(max_examples=size(20, 2000), deadline=None)
@given(files=st.lists(SOME_FILES, max_size=3))
def test_whatever_the_files_hold_the_report_ends_with_a_page_or_a_clear_message(
    files: list[bytes],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(files):
            (folder / f"{number}.trace").write_bytes(text)

        result = report(folder, "--perfetto", folder / "p.json")
        as_json = report(folder, "--json")

        assert result.exit_code == as_json.exit_code
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert is_safe(result.output)
        if result.exit_code == 2:
            assert (
                "holds no trace" in result.stderr or "holds traces, but no round" in result.stderr
            )
            return
        assert result.exit_code == 0
        json.loads(as_json.stdout)
        json.loads((folder / "p.json").read_text())
        page = (folder / "report.html").read_text()
    around, data = split(page)
    assert around == split(render_page(an_empty_report()))[0]
    assert not {*"<>&"} & {*data}
    json.loads(data)


def split(page: str) -> tuple[list[str], str]:
    """Separate a page's data from what is around it."""
    before, data, after = re.split('(?<=id="data">)|(?=</script>\n<script>)', page)
    return [before, after], data
