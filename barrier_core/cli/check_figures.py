"""What ``barrier check`` has measured, and how it is shown."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from barrier_core.cli.output import plain

SHOW_EVERY_SECS = 0.2
_SENT_ROUNDS = 1000
"""Rounds whose times a rank sends on, at most: a thousand ranks send them to one."""


class Figures(msgspec.Struct):
    """What one rank has measured, in seconds."""

    host: str
    median: float
    p99: float
    waits: list[float]
    """How long it waited in each round, up to the last; only the last thousand."""

    @classmethod
    def of(cls, host: str, waits: Sequence[float]) -> Figures:
        """Sum up how long a rank has waited in each round."""
        return cls(host, statistics.median(waits), p99(waits), list(waits[-_SENT_ROUNDS:]))


def p99(values: Sequence[float]) -> float:
    """Return the value that 99 of 100 do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def count_last(waits: Sequence[Sequence[float]]) -> Counter[int]:
    """Return how often each rank came last: in a round, the last one to come waits least.

    Args:
        waits: For each rank, how long it has waited in each round, by its own clock.
    """
    return Counter(
        min(range(len(waits)), key=lambda rank: in_round[rank])
        for in_round in zip(*waits, strict=True)
    )


def table_of(by_rank: Sequence[Figures]) -> Table:
    """Return a table with a line for every rank."""
    last = count_last([figures.waits for figures in by_rank])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("RANK", "HOST", "MEDIAN US", "P99 US", "CAME LAST"):
        table.add_column(heading, justify="left" if heading == "HOST" else "right")
    for rank, figures in enumerate(by_rank):
        table.add_row(
            str(rank),
            plain(figures.host),
            microseconds(figures.median),
            microseconds(figures.p99),
            f"{last[rank]} of {len(figures.waits)}",
        )
    return table


def microseconds(seconds: float) -> str:
    """Write a number of seconds as one of microseconds."""
    return f"{seconds * 1e6:.0f}"


@contextmanager
def progress(rounds: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many rounds have passed; yield what to call with their number."""
    console = Console(stderr=True)
    if not (visible and console.is_terminal):
        yield lambda number: None
        return
    columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn())
    # Not refreshed by a thread of its own, which would get in the way of what is measured.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as display:
        task = display.add_task("rounds", total=rounds)
        next_refresh = 0.0

        def advance(number: int) -> None:
            nonlocal next_refresh
            if time.monotonic() >= next_refresh:
                next_refresh = time.monotonic() + SHOW_EVERY_SECS
                display.update(task, completed=number, refresh=True)

        yield advance
