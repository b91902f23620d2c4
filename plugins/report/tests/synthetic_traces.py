"""Traces of jobs that never ran, of which everything is known: who was late, and how clocks differ.

``python -m plugins.report.tests.synthetic_traces DIR RANKS ROUNDS`` writes that of a large job.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from barrier_core.observers.trace_format import (
    TRACE_FORMAT,
    BarrierStart,
    ClockReading,
    FailedRound,
    Line,
    PassedRound,
    TraceStart,
)

BEGAN = 1_767_225_600.0
"""When every job begins, in Unix time."""

_encode = msgspec.json.Encoder().encode


@dataclass
class Host:
    """A machine and its clock."""

    name: str
    ahead_secs: float = 0.0
    """Its wall clock minus the true time, at the beginning."""
    drift_ppm: float = 0.0
    up_secs: float = 1000.0
    """For how long it has been up when the job begins: where its monotonic clock is."""
    clock: str = ""
    """The clock's name; that of the host if not given."""

    wander_secs: float = 0.0
    """How far, beside its drift, it departs to and fro within a day."""

    def gained_secs(self, true: float) -> float:
        """How much more than the true time it has counted since the job began."""
        since = true - BEGAN
        wandered = self.wander_secs * math.sin(since * 2 * math.pi / 86400)
        return since * self.drift_ppm * 1e-6 + wandered

    def monotonic_ns(self, true: float) -> int:
        return round((self.up_secs + true - BEGAN + self.gained_secs(true)) * 1e9)

    def wall_ns(self, true: float) -> int:
        return round((true + self.ahead_secs + self.gained_secs(true)) * 1e9)


@dataclass
class SyntheticJob:
    """A job whose ranks come to a barrier at random, some of them late on purpose."""

    hosts: list[Host]
    """One for each rank, in order; ranks may share one."""
    rounds: int = 100
    work_secs: float = 0.5
    """From one round to the next."""
    scatter_secs: float = 0.01
    """How much ranks differ by chance."""
    release_secs: float = 50e-6
    """How much the releases differ that ranks see."""
    late_secs: Callable[[int, int], float] = lambda rank, number: 0.0
    """How much later than by chance a rank comes to a round."""
    tag: Callable[[int], str] = lambda number: f"step={number}"
    prefix: str = "ckpt"
    generation: str = "0"
    began: float = BEGAN
    seed: int = 1
    pid: int = 100
    cost_secs: list[float] = field(init=False)
    """The truth, by rank."""
    arrivals: list[list[float]] = field(init=False)
    """The truth, for each round: when the ranks came."""
    lines: list[list[Line]] = field(init=False)
    """What the ranks write down; it can be changed before it is written."""

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        everyone = range(len(self.hosts))
        self.cost_secs = [0.0] * len(self.hosts)
        self.arrivals = []
        self.lines = [self._head(rank) for rank in everyone]
        now = self.began
        for number in range(1, self.rounds + 1):
            now += self.work_secs
            came = [
                now + chance.random() * self.scatter_secs + self.late_secs(rank, number)
                for rank in everyone
            ]
            self.arrivals.append(came)
            released = max(came)
            self.cost_secs[came.index(released)] += released * len(came) - sum(came)
            for rank in everyone:
                left = released + 1e-4 + chance.random() * self.release_secs
                now = max(now, left)
                self.lines[rank].append(self._passed(rank, number, came[rank], left))

    def _head(self, rank: int) -> list[Line]:
        host = self.hosts[rank]
        start = TraceStart(
            TRACE_FORMAT,
            rank,
            host.name,
            self.pid + rank,
            host.clock or host.name,
            host.wall_ns(self.began),
            0,
        )
        reading = ClockReading(host.wall_ns(self.began), host.monotonic_ns(self.began))
        world_size = len(self.hosts)
        barrier = BarrierStart(0, "tcp_store", self.prefix, self.generation, 0, world_size)
        return [start, reading, barrier]

    def _passed(self, rank: int, number: int, came: float, left: float) -> PassedRound:
        clock = self.hosts[rank].monotonic_ns
        entered_ns = clock(came)
        return PassedRound(0, number, entered_ns, clock(left) - entered_ns, self.tag(number))

    def fail(self, dead: int, at: float) -> None:
        """Have a rank die before the next round, which the others give up after a second."""
        number = self.rounds + 1
        for rank, host in enumerate(self.hosts):
            if rank != dead:
                entered_ns = host.monotonic_ns(at)
                message = f"round {number} is broken (dead, decided by rank 0): rank {dead} is gone"
                self.lines[rank].append(
                    FailedRound(0, number, entered_ns, 10**9, "save", "dead", 0, str(dead), message)
                )

    def write(self, folder: Path) -> None:
        """Write a file for each rank."""
        folder.mkdir(parents=True, exist_ok=True)
        for rank, lines in enumerate(self.lines):
            start = lines[0]
            assert isinstance(start, TraceStart)
            name = f"rank{rank}-{start.host}-{start.pid}-{start.started_ns:x}.trace"
            (folder / name).write_bytes(b"".join(_encode(line) + b"\n" for line in lines))


def main(folder: str, ranks: str, rounds: str) -> None:
    hosts = [
        Host(f"gpu-{number:02}", number * 0.37 - 1, number * 3 - 10, 1e5 * (number + 1))
        for number in range(max(int(ranks) // 8, 1))
    ]
    SyntheticJob(
        [hosts[rank * len(hosts) // int(ranks)] for rank in range(int(ranks))],
        rounds=int(rounds),
        late_secs=lambda rank, number: 0.04 * (rank == 37 and number % 5 == 0),
        tag=lambda number: f"save step={number * 100}" if number % 10 == 0 else "gradients",
    ).write(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
