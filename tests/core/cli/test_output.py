"""Tables: aligned columns, and on a terminal no line that is wider than it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from barrier_core.cli.output import LogFormatter, show, show_json, table_lines
from tests.support.command import Command

CELLS = st.text(st.sampled_from("ab_, "), max_size=12).map(str.strip)


def test_columns_are_aligned_to_the_left_or_to_the_right() -> None:
    lines = table_lines(("NAME", "SIZE"), [("a", "7"), ("longer", "12345")], right=["SIZE"])

    assert [click.unstyle(line) for line in lines] == [
        "NAME     SIZE",
        "a           7",
        "longer  12345",
    ]


def test_a_table_without_rows_is_its_headings() -> None:
    assert [click.unstyle(line) for line in table_lines(("A", "B"), [])] == ["A  B"]


def test_the_last_cell_is_broken_where_the_terminal_ends() -> None:
    words = ", ".join(["capability"] * 5)

    lines = table_lines(("TYPE", "CAPABILITIES"), [("alpha", words)], width=40)

    assert [click.unstyle(line) for line in lines] == [
        "TYPE   CAPABILITIES",
        "alpha  capability, capability,",
        "       capability, capability,",
        "       capability",
    ]


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), width=st.integers(50, 90))
def test_a_table_fits_the_terminal_and_loses_no_word(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    lines = table_lines(("A", "B", "C"), rows, right=["B"], width=width)

    assert all(len(click.unstyle(line)) <= width for line in lines)
    shown = " ".join(map(click.unstyle, lines)).split()
    assert sorted(shown) == sorted(" ".join(["A B C", *(" ".join(row) for row in rows)]).split())


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_the_environment_says_whether_a_pipe_gets_colours(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    coloured: bool,
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    show(click.style("ok", fg="green"))

    assert ("\x1b[32m" in capsys.readouterr().out) == coloured


HOSTILE = "\x1b[2J\x1b]0;renamed\x07\x9b31m\u202e\r\ud800"
ESCAPED = r"\u001b[2J\u001b]0;renamed\u0007\u009b31m\u202e\u000d\ud800"


def test_what_a_terminal_would_obey_is_written_as_its_escape(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    show(f"{click.style('alpha', bold=True)}: {HOSTILE}")
    show("\x1b[31mred for ever")

    assert capsys.readouterr().out == (
        f"\x1b[1malpha\x1b[0m: {ESCAPED}\x1b[0m\n\x1b[31mred for ever\x1b[0m\n"
    )


def test_a_cell_of_a_table_stays_on_its_line() -> None:
    (_, line) = table_lines(("HOST",), [(f"gpu\n0 {HOSTILE}",)])

    assert line == rf"gpu\n0 {ESCAPED}"


def test_json_says_the_same_and_is_safe_too(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b[2J\x9b31m\u202e\n"
    show_json({"host": text})

    out = capsys.readouterr().out
    assert json.loads(out) == {"host": text}
    assert not {"\x1b", "\x9b", "\u202e"} & {*out}


@pytest.mark.parametrize("arguments", [["wait", "--arg", HOSTILE[:-1]], ["list", HOSTILE[:-1]]])
def test_errors_are_safe_for_the_terminal(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    err = Command(capsys)(*arguments).err

    assert ESCAPED.removesuffix(r"\ud800") in err
    assert err.replace("\n", "").isprintable()


def test_warnings_are_safe_for_the_terminal() -> None:
    record = logging.LogRecord("", logging.WARNING, "", 0, "late: %s\n", (HOSTILE,), None)
    assert LogFormatter().format(record) == f"late: {ESCAPED}\n"

    program = (
        "import logging; from barrier_core.cli import main; "
        "main(['list'], standalone_mode=False); "
        "logging.getLogger('barrier_core').warning('late: \\x1b[2J')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=True
    )
    assert rb"late: \u001b[2J" in done.stderr
