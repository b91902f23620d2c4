"""What is explored: a scenario, the faults in it, and where a rank stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec

from barrier_core.agreement.keys import Keys, RoundKeys, Series
from barrier_core.agreement.operations import Steps
from barrier_core.agreement.protocol import Round, conclude, give_up, is_outdated
from barrier_core.agreement.reasons import Posted, Reason, StoreLost
from barrier_core.agreement.round_log import Break, Log
from barrier_core.verdict import Verdict

At = Literal["outside", "in a round", "broken", "done", "dead"]
Fault = Literal["timeout", "interrupt", "abort", "death", "alarm", "flush", "late"]
KEYS = Keys("ckpt", "0")
STRANGER = 99
JOB = b"the job's record"


class Protocol(NamedTuple):
    """The parts of the protocol that a mutant can replace."""

    give_up: Callable[[Round, Break, bool], Steps[Log | StoreLost | None]] = give_up
    conclude: Callable[[Round, Break, bool], Steps[Verdict | None]] = conclude
    round_keys: Callable[[int, str], RoundKeys] = KEYS.round
    is_outdated: Callable[[Posted, int], bool] = is_outdated
    kept_rounds: int = 1
    """How many of the rounds that rank 0 has passed keep their keys."""
    mailbox_survives_a_round: bool = True
    interrupted_rounds_are_ended_once: bool = True


class Scenario(NamedTuple):
    """What is explored."""

    world_size: int
    rounds: int
    tags: tuple[tuple[int, int, str], ...] = ()
    """Rank, round and tag, where a rank comes with another tag than none."""
    can_count: bool = True
    """If not, ranks wait by reading the log, as over a store that has no release signal."""
    protocol: Protocol = Protocol()

    def tag(self, rank: int, number: int) -> str:
        return next((tag for *who, tag in self.tags if who == [rank, number]), "")

    def round(self, rank: int, number: int) -> Round:
        series = _series(self.protocol.round_keys, rank, self.world_size, self.tag(rank, number))
        return Round(number, series, KEYS, rank, JOB, "model")

    def keys(self, rank: int, number: int) -> RoundKeys:
        return self.round(rank, number).own_keys


class _MutantSeries(Series, frozen=True, kw_only=True):
    """A series whose keys a mutant makes."""

    make: Callable[[int, str], RoundKeys]

    def keys(self, number: int) -> RoundKeys:
        return self.make(number, self.tag)


@cache
def _series(make: Callable[[int, str], RoundKeys], rank: int, world_size: int, tag: str) -> Series:
    series = KEYS.series(rank, world_size, tag)
    if make == KEYS.round:
        return series
    return _MutantSeries(**msgspec.structs.asdict(series), make=make)


class Faults(NamedTuple):
    """How many faults of each kind may still happen; None: any number."""

    timeout: int | None = None
    interrupt: int | None = None
    """A signal handler raises in the thread that is in a round."""
    abort: int | None = None
    """`Barrier.abort` is called, by another thread or by a signal handler."""
    death: int | None = None
    alarm: int | None = 0
    """A process that does not belong to the job tries to join."""
    flush: int | None = 0
    """The store forgets everything."""
    late: int | None = 0
    """A watcher posts what it has found only after its rank's round has ended."""

    def after(self, fault: Fault) -> Faults:
        """What is left after one more."""
        left: int | None = getattr(self, fault)
        return self if left is None else self._replace(**{fault: left - 1})


class Task(NamedTuple):
    """What a rank is at: going through a round, or settling a reason."""

    reason: Reason | None = None
    """None: going through a round from its entry on."""
    arrived: bool = False
    """Whether it takes itself for arrived when it settles."""
    answers: tuple[Any, ...] = ()
    """What it has been answered so far. Generators cannot be copied, but replayed."""


class Rank(NamedTuple):
    """Where a rank stands in its life; with the store, all that its next steps depend on."""

    round: int = 1
    """The round that it is in, or comes to next."""
    at: At = "outside"
    task: Task | None = None
    appended: bool = False
    """Whether its arrival at this round is in the log: the truth, which the rank may not know."""
    mailbox: tuple[Posted, ...] = ()
    has_evidence: bool = False
    """Whether its watcher has found a reason to end this round."""
    has_noticed: bool = False
    """Whether its watcher has posted a verdict or an alarm between rounds."""
    late: Posted | None = None
    """What its watcher has found and not posted yet."""
    verdict: Verdict | None = None
    told: int = 0
    """How many rounds its observers have been told the end of."""
    was_aborted: bool = False
    collected: int = 0
    """Keys of finished rounds that it has removed; rank 0 only."""

    @property
    def has_arrived(self) -> bool:
        """Whether it must take itself for arrived, should it be interrupted: noted before it is."""
        task = self.task
        if task is None or task.reason is not None:
            return task is not None and task.arrived
        return task.answers[:1] == (None,)  # no reason was there when it entered
