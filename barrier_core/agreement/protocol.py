"""How a rank goes through a round, and how all ranks agree on whether it passed.

A total order decides, the release signal only wakes. Every rank appends its arrival to the round's
log and is then counted in. When all are counted in, the store sends the release signal, and who
gets it has passed. A rank that does not want to wait any longer asks the log:

1. *withdraw*: stop waiting for the release signal. If it had come, the round has passed.
2. *remove the release signal*. Who has been counted in is forgotten, so from here on the count
   cannot complete: this rank, which has been counted in before or never will be, is not counted
   again.
3. *append a break* to the log.
4. *read the log*. All arrivals before the first break: the round has passed. Otherwise the first
   break has broken it.

Why this is safe: a release signal that came was completed by N ranks before any removal, each after
its own arrival, so N arrivals precede every break in the log, and all who ask it decide "passed".
If none came, every rank gets its answer from the same log, whose prefix up to the first break never
changes. Ranks with different tags are counted apart, so a mismatch never passes.

Everything here is pure: no store, no clock, no thread. What a rank does is a generator that yields
operations. The engine performs them on a real store, and the model checker performs the same ones
in every order on a model of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from barrier_core.agreement.keys import Keys, RoundKeys, Series
from barrier_core.agreement.operations import (
    Append,
    Arrive,
    AwaitRelease,
    Create,
    Describe,
    NextReason,
    Read,
    Remove,
    Steps,
    Withdraw,
    Write,
)
from barrier_core.agreement.reasons import Posted, Reason, RoundPassed, StoreLost
from barrier_core.agreement.round_log import (
    Break,
    Log,
    break_record,
    decode_verdict,
    parse,
    passed,
)
from barrier_core.agreement.store import FORGOTTEN
from barrier_core.verdict import RankStatus, Verdict, format_ranks

_NOT_IN_LOG = "it says of the round what the round's log does not say: a stranger writes to it"


def next_reason(mailbox: Iterable[Posted], number: int) -> Reason | None:
    """Return the first reason in a mailbox that concerns a round.

    What was found out about an earlier round says nothing about this one: the rank may be dead that
    was missing there, or may have come since.
    """
    return next((each.reason for each in mailbox if not is_outdated(each, number)), None)


def is_outdated(posted: Posted, number: int) -> bool:
    """Whether a reason is about a round before this one."""
    about = posted.round
    if isinstance(posted.reason, (Verdict, RoundPassed)):
        about = posted.reason.round
    return about is not None and about < number


def evidence_in_store(
    forgotten: bool,
    verdict: Verdict | None,
    alarm: Break | None,
    passed: int | None,
    number: int | None,
) -> Reason | None:
    """Say what the barrier's own keys tell a rank.

    Args:
        forgotten: Whether the job's record is not what it was when the rank joined.
        verdict: The verdict that stands, if any.
        alarm: What a process has left that does not belong to the job, if any.
        passed: Number of a round that a rank has found to have passed, if any.
        number: The round that this rank waits in; None if it is in none.
    """
    if forgotten:
        return StoreLost(FORGOTTEN)
    if verdict is not None:
        return verdict
    if alarm is not None:
        return alarm
    if passed is not None and number is not None and passed >= number:
        return RoundPassed(passed)
    return None


def evidence_in_log(
    log: Log,
    rank: int,
    world_size: int,
    number: int,
    dead: Sequence[int] = (),
    left: Sequence[int] = (),
) -> Reason | None:
    """Say what a round's log tells a rank that waits in it.

    Args:
        log: The round's log.
        rank: The rank that asks.
        world_size: Number of ranks.
        number: The round.
        dead: Which of the missing ranks are known to be dead.
        left: Which of them are known to have left for good.
    """
    if log.broken_by is not None:
        return log.broken_by
    arrived = {arrival.rank for arrival in log.arrivals}
    if rank not in arrived:
        # A record on its way is seen at the next look; one that is never there is not.
        return None
    if len(log.tags) > 1:
        # The verdict says which: a rank's own look may miss those who come a moment later.
        return Break("mismatch", rank, "the ranks came with different tags")
    if len(arrived) == world_size:
        return RoundPassed(number)
    # Neither will ever arrive.
    if gone := set(dead) - arrived:
        what = "ranks" if len(gone) > 1 else "rank"
        return Break("dead", rank, f"found {what} {format_ranks(gone)} dead")
    if gone := set(left) - arrived:
        who = f"ranks {format_ranks(gone)} have" if len(gone) > 1 else f"rank {min(gone)} has"
        return Break("left", rank, f"found that {who} left")
    return None


class Round(NamedTuple):
    """One round, as one rank comes to it."""

    number: int
    series: Series
    """Of the tag that the rank comes with."""
    keys: Keys
    """Of the barrier."""
    rank: int
    job: bytes
    """The job's record, as it was when the rank joined."""
    store: str
    """What messages call the store."""

    @property
    def world_size(self) -> int:
        """Number of ranks that must arrive."""
        return self.series.world_size

    @property
    def own_keys(self) -> RoundKeys:
        """The round's keys, with the tag that the rank comes with."""
        return self.series.keys(self.number)


# In what follows, a verdict as the result says that the round is broken, and None that it passed.


def go_through(round_: Round) -> Steps[Verdict | None]:
    """Be in a round, from its entry to its end."""
    reason = yield NextReason(round_.number)
    if reason is not None:
        return (yield from settle(round_, reason, arrived=False))
    yield Arrive(round_.series, round_.number)
    return (yield from go_on_waiting(round_))


def go_on_waiting(round_: Round) -> Steps[Verdict | None]:
    """Wait for the end of a round in which the rank has arrived."""
    while not (yield AwaitRelease()):
        reason = yield NextReason(round_.number)
        if reason is not None:
            return (yield from settle(round_, reason, arrived=True))
    return None


def settle(round_: Round, reason: Reason, arrived: bool) -> Steps[Verdict | None]:
    """End a round for a reason.

    Args:
        round_: The round.
        reason: Concerns this round (see `next_reason`).
        arrived: Whether this rank has arrived. If not, it must never arrive afterwards.
    """
    if isinstance(reason, StoreLost):
        # The release signal may have come before the store forgot, or was lost.
        if arrived and (yield Withdraw()):
            return None
        return lost(round_, reason.why)
    if isinstance(reason, Break):
        return (yield from conclude(round_, reason, arrived))
    if isinstance(reason, Verdict) and reason.round == round_.number:
        return reason
    # Whoever is in a later round has passed this one, and so has everybody. The log says so, too,
    # and stays for as long as a rank is in its round. A stranger's word alone counts for nothing.
    if (yield Withdraw()):
        return None
    log = yield Read(round_.own_keys.log)
    return None if passed(log or b"", round_.world_size) else lost(round_, _NOT_IN_LOG)


def conclude(round_: Round, why: Break, arrived: bool) -> Steps[Verdict | None]:
    """Break a round unless it has passed, and tell the others what came of it."""
    log = yield from give_up(round_, why, arrived)
    if isinstance(log, StoreLost):
        return lost(round_, log.why)
    if log is None:
        # A rank that was counted in too late, after the removal, still waits: tell it.
        yield Write(round_.keys.passed, b"%d" % round_.number)
        return None
    arrivals = {arrival.rank for arrival in log.arrivals}
    missing = tuple(rank for rank in range(round_.world_size) if rank not in arrivals)
    statuses = (yield Describe(missing)) if missing else ()
    verdict = compose(round_, log, statuses)
    # The first to write it down writes it for all: who is alive and what a rank last did is seen
    # differently from different places.
    standing = decode_verdict((yield Create(round_.keys.verdict, msgspec.json.encode(verdict))))
    # A store that has been emptied meanwhile may have taken this verdict after that of others, and
    # may have named ranks as missing that had arrived.
    if (yield Read(round_.keys.job)) != round_.job:
        return lost(round_, FORGOTTEN)
    return standing if standing.round == round_.number else lost(round_, _NOT_IN_LOG)


def give_up(round_: Round, why: Break, arrived: bool) -> Steps[Log | StoreLost | None]:
    """Break a round unless it has passed: None if it has, else the log that says who broke it.

    A store that has forgotten this rank's own word is lost: nothing can be concluded from what it
    does not say.

    Args:
        round_: The round.
        why: The break to append; another rank's may come first.
        arrived: Whether this rank has arrived. If not, it must never arrive afterwards.
    """
    keys = round_.own_keys
    if arrived:
        if (yield Withdraw()):
            return None
        yield Remove(keys.release)
    # A rank that has not arrived, and never will, has no release signal to remove: the count cannot
    # complete without it.
    yield Append(keys.log, break_record(why))
    records = (yield Read(keys.log)) or b""
    log = parse(records, round_.world_size)
    if log.broken_by is None:
        return StoreLost(FORGOTTEN)
    # An arrival that was interrupted may not have been sent: this rank's own abort tells nothing.
    was_sent = arrived and (why.kind, why.rank) != ("abort", round_.rank)
    if was_sent and round_.series.record.rstrip() not in records.splitlines():
        return StoreLost(FORGOTTEN)
    # Count arrivals as the release signal does: all of them, and all with one tag.
    if len(log.arrivals) == round_.world_size and len(log.tags) == 1:
        return None
    return log


def compose(round_: Round, log: Log, missing: tuple[RankStatus, ...]) -> Verdict:
    """Return the verdict on a broken round.

    Args:
        round_: The round.
        log: Says who has arrived and who has broken it.
        missing: The status of every rank that has not arrived.
    """
    assert log.broken_by is not None  # the rank's own record is there, if no other
    tags = {tag: format_ranks(ranks) for tag, ranks in sorted(log.tags.items())}
    return Verdict(
        kind=log.broken_by.kind,
        round=round_.number,
        tag=round_.series.tag,
        rank=log.broken_by.rank,
        reason=log.broken_by.reason,
        world_size=round_.world_size,
        missing=missing,
        tags=tags if len(tags) > 1 else None,
    )


def lost(round_: Round, why: str) -> Verdict:
    """Return the verdict of a rank that has lost the store, in a round or before it."""
    return Verdict(
        kind="store",
        round=round_.number,
        tag=round_.series.tag,
        reason=f"the {round_.store} failed: {why}",
        world_size=round_.world_size,
    )
