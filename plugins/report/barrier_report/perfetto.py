"""Writes rounds in the Trace Event Format, which Perfetto and Chrome's tracing page open.

A process stands for a host, a thread for a rank (and one more for each further barrier it uses), a
slice for what a rank waited in a round. An instant marks who came last, and what that cost.

The format is Google's "Trace Event Format".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from barrier_report.files import written
from barrier_report.make import Made
from barrier_report.rounds import Session

_FLUSH_EVERY = 1_000
_RANKS = 2**24  # no rank is above it, so no two barriers share a thread number


def write_perfetto(made: Made, path: Path) -> None:
    """Write every round to a file of JSON; times are in microseconds since the first arrival.

    Raises:
        OSError: The file cannot be written.
    """
    encode = msgspec.json.Encoder().encode
    began = encode({"began": made.report.start, "source": made.report.source})
    with written(path) as file:
        file.write(b'{"displayTimeUnit":"ms","otherData":' + began + b',"traceEvents":[\n')
        lines: list[bytes] = []
        for number, event in enumerate(_events(made)):
            lines.append((b",\n" if number else b"") + encode(event))
            if len(lines) == _FLUSH_EVERY:
                file.write(b"".join(lines))
                lines = []
        file.write(b"".join(lines) + b"\n]}\n")


def _events(made: Made) -> Iterator[dict[str, Any]]:
    origin = made.report.start - made.aligned.origin_ns * 1e-9
    names = sorted({part.start.host for session in made.sessions for part in session.parts})
    hosts = {host: number for number, host in enumerate(names, 1)}
    for host, number in hosts.items():
        yield _name("process_name", number, 0, {"name": host})
    threads: dict[tuple[str, str], int] = {}
    for session in made.sessions:
        # A restarted job continues in the same rows.
        thread = threads.setdefault((session.barrier_type, session.prefix), len(threads))
        yield from _events_of(session, thread * _RANKS, hosts, origin)


def _events_of(
    session: Session, threads: int, hosts: dict[str, int], origin: float
) -> Iterator[dict[str, Any]]:
    barrier = f"{session.barrier_type} {session.prefix}".strip()
    costs: list[tuple[float, float] | None] = [None] * len(session.numbers)
    """Of rounds that are charged: the last arrival, and the cost."""
    if len(session.parts) == session.world_size:
        for index, arrivals in enumerate(zip(*session.entered, strict=True)):
            total = sum(arrivals)
            if index not in session.failed and not math.isnan(total):
                costs[index] = max(arrivals), max(arrivals) * len(arrivals) - total
    for part, entered, left in zip(session.parts, session.entered, session.left, strict=True):
        rank = part.start.rank
        where = {"pid": hosts[part.start.host], "tid": threads + rank}
        name = f"rank {rank}" + (f" {barrier}" if threads else "")
        yield _name("thread_name", where["pid"], where["tid"], {"name": name})
        yield _name("thread_sort_index", where["pid"], where["tid"], {"sort_index": where["tid"]})
        for index, (came, went) in enumerate(zip(entered, left, strict=True)):
            if math.isnan(came):
                continue
            ts = round(max(came - origin, 0.0) * 1e6, 3)
            number, tag = session.numbers[index], session.tags[index]
            failed = session.failed.get(index, {}).get(rank)
            args = {"round": number, "barrier": barrier, "generation": session.generation}
            if failed is not None:
                args |= {"outcome": failed.kind, "message": failed.message}
            yield {
                "ph": "X",
                "name": tag or f"round {number}",
                "cat": "barrier" if failed is None else "barrier,failed",
                "ts": ts,
                "dur": round(max(went - came, 0.0) * 1e6, 3),
                "args": args,
                **where,
            }
            cost = costs[index]
            if cost is not None and came == cost[0]:
                yield {
                    "ph": "i",
                    "s": "t",
                    "name": "last to arrive",
                    "ts": ts,
                    "args": {"round": number, "cost_secs": round(cost[1], 6)},
                    **where,
                }


def _name(kind: str, process: int, thread: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": args}
