"""The log of a round: what ranks append, and what its order decides.

A round passes if every rank's arrival, all with one tag, comes before the first break. The store
keeps the order of appends, so every rank that reads far enough decides the same.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

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


# Made once, at import: msgspec looks into a class when it is first decoded, and two threads that
# decode one for the first time at once crash the process (msgspec 0.22). Others do the same.
decode_break = msgspec.json.Decoder(Break).decode
decode_verdict = msgspec.json.Decoder(Verdict).decode


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


def parse(data: bytes) -> Log:
    """Read a log. A rank that arrived twice counts once."""
    arrivals: dict[int, Arrival] = {}
    for line in data.splitlines():
        if line.startswith(b"B"):
            return Log(list(arrivals.values()), decode_break(line[1:]))
        arrival = _arrival(line)
        arrivals.setdefault(arrival.rank, arrival)
    return Log(list(arrivals.values()), None)


def all_tags(data: bytes) -> list[str]:
    """Return the tags that ranks have come with, also after a break: each left a signal."""
    return sorted({_arrival(line).tag for line in data.splitlines() if line.startswith(b"A")})


def _arrival(line: bytes) -> Arrival:
    rank, _, tag = line[1:].partition(b" ")
    return Arrival(int(rank), msgspec.json.decode(tag, type=str) if tag else "")


def passed(data: bytes, world_size: int) -> bool:
    """Whether the log says that the round has passed."""
    log = parse(data)
    return len(log.arrivals) == world_size and len(log.tags) == 1
