"""From a folder of traces to its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from barrier_report.align import Aligned, align
from barrier_report.analyse import analyse
from barrier_report.model import Report
from barrier_report.read import NoTraceError, Progress, read_traces
from barrier_report.rounds import Session, join


@dataclass
class Made:
    """A report, and the rounds that it is made of."""

    report: Report
    sessions: list[Session]
    aligned: Aligned


def make_report(folder: Path, progress: Progress = lambda what, done: None) -> Made:
    """Read a folder of traces, align their clocks, and say who costs the job its time.

    Args:
        folder: What ``BARRIER_TRACE_DIR`` was.
        progress: Called with what is being done, and the share of it that is done, from 0 to 1.

    Raises:
        NoTraceError: The folder does not exist, or has no round in it.
    """
    traces = read_traces(folder, progress)
    sessions = join(traces)
    if not sessions:
        why = "no barrier has been passed, or has failed, yet"
        raise NoTraceError(
            "; ".join([f"{folder} holds traces, but no round: {why}", *traces.notes])
        )
    aligned = align(sessions, traces)
    report = analyse(folder, sessions, aligned, progress)
    notes = [*traces.notes, *report.notes]
    return Made(msgspec.structs.replace(report, notes=notes), sessions, aligned)
