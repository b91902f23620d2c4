"""The log of a round: what ranks append, and what its order decides.

A round passes if every rank's arrival, all with one tag, comes before the first break. The store
keeps the order of appends, so every rank that reads far enough decides the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from barrier_core.agreement.foreign import ForeignRecordError, decoder
from barrier_core.verdict import Verdict, VerdictKind


class Arrival(NamedTuple):
    """A rank has come to the round."""

    rank: int
    tag: str


class Break(msgspec.Struct, frozen=True):
    """A rank has given the round up."""

    kind: VerdictKind
    rank: int
    reason: str


decode_break = decoder(Break, "a break")
decode_verdict = decoder(Verdict, "a verdict")
_decode_tag = decoder(str, "a tag")
_ARRIVAL = re.compile(rb"A([0-9]{1,18})(?: ([^\t]+))?(?:\t.*)?")


class Log(NamedTuple):
    """What counts of a round's log: arrivals up to the first break, and that break."""

    arrivals: list[Arrival]
    broken_by: Break | None

    @property
    def tags(self) -> dict[str, list[int]]:
        """The ranks that came with each tag, in order of arrival."""
        tags: dict[str, list[int]] = {}
        for arrival in self.arrivals:
            tags.setdefault(arrival.tag, []).append(arrival.rank)
        return tags


def arrival_record(rank: int, tag: str) -> bytes:
    """Return what a rank appends when it arrives."""
    return b"A%d\n" % rank if not tag else b"A%d %s\n" % (rank, msgspec.json.encode(tag))


def break_record(broken_by: Break) -> bytes:
    """Return what a rank appends to give a round up."""
    return b"B" + msgspec.json.encode(broken_by) + b"\n"


def parse(data: bytes, world_size: float = math.inf) -> Log:
    """Read a log. A rank that arrived twice counts once.

    Lines that no rank of the job writes are left out (see `foreign`).
    """
    arrivals: dict[int, Arrival] = {}
    for record in _records(data):
        if isinstance(record, Break):
            return Log(list(arrivals.values()), record)
        if record.rank < world_size:
            arrivals.setdefault(record.rank, record)
    return Log(list(arrivals.values()), None)


def all_tags(data: bytes) -> list[str]:
    """Return the tags that ranks have come with, also after a break: each left a signal."""
    return sorted({record.tag for record in _records(data) if isinstance(record, Arrival)})


def _records(data: bytes) -> Iterator[Arrival | Break]:
    for line in data.splitlines():
        try:
            if line.startswith(b"B"):
                yield decode_break(line[1:].partition(b"\t")[0])
            elif arrival := _ARRIVAL.fullmatch(line):
                rank, tag = arrival.groups()
                yield Arrival(int(rank), "" if tag is None else _decode_tag(tag))
        except ForeignRecordError:
            continue


def passed(data: bytes, world_size: int) -> bool:
    """Whether the log says that the round has passed."""
    log = parse(data, world_size)
    return len(log.arrivals) == world_size and len(log.tags) == 1
