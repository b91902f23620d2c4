"""What ``barrier check`` has measured, and how it is shown."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
import msgspec

from barrier_core.cli.output import show_table

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


def show_figures(by_rank: Sequence[Figures]) -> None:
    """Write a table with a line for every rank to stdout."""
    last = count_last([figures.waits for figures in by_rank])
    show_table(
        ("RANK", "HOST", "MEDIAN US", "P99 US", "CAME LAST"),
        [
            (
                str(rank),
                figures.host,
                microseconds(figures.median),
                microseconds(figures.p99),
                f"{last[rank]} of {len(figures.waits)}",
            )
            for rank, figures in enumerate(by_rank)
        ],
        right=("RANK", "MEDIAN US", "P99 US", "CAME LAST"),
    )


def microseconds(seconds: float) -> str:
    """Write a number of seconds as one of microseconds."""
    return f"{seconds * 1e6:.0f}"


@contextmanager
def progress(rounds: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show how many rounds have passed, on stderr and only if that is a terminal.

    Args:
        rounds: How many there will be.
        visible: False to show nothing.

    Yields:
        What to call with the number of rounds so far.
    """
    if not (visible and sys.stderr.isatty()):
        yield lambda number: None
        return
    next_refresh = 0.0

    # Written between rounds. A thread that writes would slow down what is measured.
    def advance(number: int) -> None:
        nonlocal next_refresh
        if time.monotonic() >= next_refresh:
            next_refresh = time.monotonic() + SHOW_EVERY_SECS
            click.echo(f"\rrounds {number}/{rounds}", err=True, nl=False)

    try:
        yield advance
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)  # go back, and clear the line
