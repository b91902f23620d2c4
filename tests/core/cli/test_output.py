"""Tables: aligned columns, and on a terminal no line that is wider than it."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from barrier_core.cli.output import show, table_lines

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
