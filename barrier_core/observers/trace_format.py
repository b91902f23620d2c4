"""What is in a trace file: one line of JSON after another, each an array whose first item is a tag.

::

    ["trace", 1, 3, "gpu-01", 4121, "9f1c… 4026531834", 1767225600123456789, 0]
    ["clock", 1767225600123456900, 52000000000]
    ["barrier", 0, "tcp_store", "ckpt", "0", 0, 64]
    ["pass", 0, 1, 52000100000, 1203000, "save step=100"]
    ["fail", 0, 2, 53000100000, 600000000000, "save step=200", "dead", 0, "17", "round 2 …"]

A file is one rank's in one process. It begins with a `TraceStart`, which is repeated, with new
`ClockReading` and `BarrierStart` lines, where the file goes on after an error or in a new file. All
times are in nanoseconds. Those of rounds are by the monotonic clock, which processes of one host
share and which no change of the wall clock moves; a `ClockReading` relates the two. A line may be
torn where its process was killed. A reader must pass over lines with a tag that it does not know,
and ignore items at a line's end that it does not know.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

TRACE_FORMAT = 1
SUFFIX = ".trace"

# A line with a number beyond these is damaged, and no reason to run out of memory.
_Nanoseconds = Annotated[int, Meta(ge=0, le=2**61)]
_Number = Annotated[int, Meta(ge=0, le=2**53)]
_Rank = Annotated[int, Meta(ge=0, lt=2**24)]


class TraceStart(msgspec.Struct, frozen=True, array_like=True, tag="trace"):
    """The first line: whose file this is."""

    format: int
    """`TRACE_FORMAT`; another number means lines of another meaning."""
    rank: _Rank
    host: str
    pid: _Number
    clock: str
    """Names the monotonic clock: Linux's boot id and time namespace, which all processes of a host
    share."""
    started_ns: _Nanoseconds
    """Wall-clock time of the first line that this process wrote for this rank: with host, pid and
    rank, it says which files belong together."""
    before: _Number
    """Number of rounds that the process has had before, in older files or lost."""


class ClockReading(msgspec.Struct, frozen=True, array_like=True, tag="clock"):
    """The two clocks of a host at one moment."""

    wall_ns: _Nanoseconds
    """Unix time."""
    monotonic_ns: _Nanoseconds


class BarrierStart(msgspec.Struct, frozen=True, array_like=True, tag="barrier"):
    """A barrier; it stands before the first round that names its number."""

    number: _Number
    """What the rounds of this file call it."""
    barrier_type: str
    prefix: str
    generation: str
    instance: _Number
    """How many barriers of this type, prefix and generation the process has had before."""
    world_size: _Rank


class PassedRound(msgspec.Struct, frozen=True, array_like=True, tag="pass"):
    """A round that has passed."""

    barrier: _Number
    round: _Number
    entered_ns: _Nanoseconds
    """Just before the rank arrived."""
    waited_ns: _Nanoseconds
    """From then until it went on."""
    tag: str


class FailedRound(msgspec.Struct, frozen=True, array_like=True, tag="fail"):
    """A round that was broken; the first fields are those of `PassedRound`."""

    barrier: _Number
    round: _Number
    entered_ns: _Nanoseconds
    waited_ns: _Nanoseconds
    tag: str
    kind: str
    """Of the verdict: ``timeout``, ``abort``, …; the class of an error that has no verdict."""
    decided_by: _Rank | None
    missing: str
    """Ranks, compressed: ``3, 17-31``."""
    message: str


Line = TraceStart | ClockReading | BarrierStart | PassedRound | FailedRound
