"""From a folder of traces to its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from barrier_report.align import Aligned, align
from barrier_report.analyse import analyse
from barrier_report.model import Report
from barrier_report.read import NoTraceError, Progress, read_traces
from barrier_report.rounds import Run, join


@dataclass
class Made:
    """A report, and the rounds that it rests on."""

    report: Report
    runs: list[Run]
    aligned: Aligned


def make_report(folder: Path, progress: Progress = lambda what, done: None) -> Made:
    """Read a folder of traces, align their clocks, and say who costs the job its time.

    Args:
        folder: What ``BARRIER_TRACE_DIR`` was.
        progress: Told what is being done, and which share of it is done.

    Raises:
        NoTraceError: The folder does not exist, or has no round in it.
    """
    traces = read_traces(folder, progress)
    runs = join(traces)
    if not runs:
        raise NoTraceError(
            f"{folder} holds traces, but no round: no barrier has been passed, or has failed, yet"
        )
    aligned = align(runs, traces)
    report = analyse(folder, runs, aligned, progress)
    notes = [*traces.notes, *report.notes]
    return Made(msgspec.structs.replace(report, notes=notes), runs, aligned)
