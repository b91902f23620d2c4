"""``barrier report``: who costs the job its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from barrier_core.plugin_api import printable
from barrier_report.make import make_report
from barrier_report.page import write_page
from barrier_report.perfetto import write_perfetto
from barrier_report.read import NoTraceError
from barrier_report.text import plain, show, show_report


class _FailedError(click.ClickException):
    """A file cannot be written."""

    exit_code = 1


class _WrongUseError(click.ClickException):
    """The folder holds no trace."""

    exit_code = 2


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the page goes.  [default: DIR/report.html; with --json, nowhere]",
)
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON instead of text.")
@click.option(
    "--perfetto",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write every round to a file that ui.perfetto.dev opens.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many ranks, hosts and tags to show.",
)
def command(
    folder: Path, page: Path | None, as_json: bool, perfetto: Path | None, top: int
) -> None:
    """Say who is late: which rank, host and tag costs the job how much time.

    \b
    DIR is the folder into which the ranks of a job have written their traces:
        BARRIER_TRACE_DIR=DIR torchrun train.py
        barrier report DIR

    The cost of a round is the time that the other ranks wait for the last one, summed over them. It
    is charged to the last rank, to its host and to the tag. Tags that differ only in their numbers
    are counted together. The clocks of hosts are aligned by the rounds themselves. Failed rounds
    are listed; they are not charged to a rank.

    The exit status is 0 if there is a report, 1 if a file cannot be written, and 2 if DIR holds no
    trace or the command line is wrong.
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    try:
        with _progress() as progress:
            made = make_report(folder, progress)
    except NoTraceError as error:
        raise _WrongUseError(str(error)) from error
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(made.report), indent=2).decode()
        click.echo(printable(text, keep="\n"))
    else:
        show_report(made.report, top)
    try:
        if perfetto is not None:
            write_perfetto(made, perfetto)
        if page is None and not as_json:
            page = folder / "report.html"
        if page is not None:
            write_page(made.report, page)
            if not as_json:
                show(plain(f"Page: {page}"))
    except OSError as error:
        raise _FailedError(f"cannot write {error.filename}: {error.strerror}") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Show a bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)
