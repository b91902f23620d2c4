"""How the subcommands write: text and tables for people, JSON for programs."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from barrier_core.printable import printable

_GAP = "  "
_STYLE = re.compile(r"(\x1b\[(?:0|1|3[126])m)")
"""The styles of the subcommands, as click writes them."""
_RESET = click.style("")
_LAYOUT = "\n\t"
_LEAST_ROOM = 20
"""Columns that the last cell of a row has at least, however narrow the terminal is."""


def show(text: str = "") -> None:
    """Write a line to stdout. A message stays on one line, where it can be searched for.

    Styles are for terminals: they are left out of a pipe, unless ``FORCE_COLOR`` is set, and
    everywhere if ``NO_COLOR`` is. Whatever else a terminal would obey is written as its escape.
    """
    colour = False if os.environ.get("NO_COLOR") else bool(os.environ.get("FORCE_COLOR")) or None
    click.echo(_printable_but_styles(text, _LAYOUT), color=colour)


def show_json(value: Any) -> None:
    """Write a value as JSON; what JSON has no form for is written as its ``repr``."""
    encoded = msgspec.json.encode(value, enc_hook=repr)
    click.echo(printable(msgspec.json.format(encoded, indent=2).decode(), _LAYOUT))


@contextmanager
def errors_are_printable() -> Iterator[None]:
    """Make the message of an error that ends the command safe for the terminal."""
    try:
        yield
    except click.ClickException as error:
        # Changed in place: the error's class says how to show it, and how the command ends.
        vars(error)["message"] = printable(error.message, _LAYOUT)
        raise


class LogFormatter(logging.Formatter):
    """Formats what the command logs to stderr: safe for the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return printable(super().format(record), _LAYOUT)


def show_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()
) -> None:
    """Write a table to stdout: on a terminal no wider than that, into a pipe as wide as it is."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table_lines(headings, rows, right, width):
        show(line)


def table_lines(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[str] = (),
    width: int | None = None,
) -> list[str]:
    """Return the lines of a table, whose columns are aligned.

    Args:
        headings: One for each column.
        rows: A cell for each column; cells may have styles.
        right: The headings of the columns that are aligned to the right.
        width: Where to break the cells of the last column, in characters; nowhere if None.
    """
    table = [[click.style(heading, bold=True) for heading in headings]]
    table += [[_printable_but_styles(cell) for cell in row] for row in rows]
    widths = [max(map(_length, column)) for column in zip(*table, strict=True)]
    indent = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    lines = []
    for row in table:
        cells = [
            " " * (size - _length(cell)) + cell
            if heading in right
            else cell + " " * (size - _length(cell))
            for heading, cell, size in zip(headings, row, widths, strict=True)
        ]
        if width is not None and indent + _length(row[-1]) > width:
            room = max(width - indent, _LEAST_ROOM)
            cells[-1] = click.wrap_text(row[-1], room).replace("\n", "\n" + " " * indent)
        lines += _GAP.join(cells).rstrip().split("\n")
    return lines


def _printable_but_styles(text: str, keep: str = "") -> str:
    parts = _STYLE.split(text)
    if len(parts) == 1:
        return printable(text, keep)
    # At the end, as a style that came with a value need not end with it.
    return "".join([*(p if n % 2 else printable(p, keep) for n, p in enumerate(parts)), _RESET])


def _length(cell: str) -> int:
    """Return how many characters are seen of a cell."""
    return len(click.unstyle(cell))
