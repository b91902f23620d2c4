"""Protocols that are almost right. The checker must find what is wrong with each of them."""

from __future__ import annotations

from typing import Any

from barrier_core.agreement.keys import RoundKeys
from barrier_core.agreement.operations import Append, Read, Remove, Steps, Withdraw
from barrier_core.agreement.protocol import Round, conclude, give_up
from barrier_core.agreement.reasons import Posted, StoreLost
from barrier_core.agreement.round_log import Break, Log, break_record, parse
from barrier_core.verdict import Verdict
from tests.core.model.scenario import KEYS, Protocol

Outcome = Log | StoreLost | None


def _ask(round_: Round) -> Steps[Outcome]:
    log = parse((yield Read(round_.own_keys.log)) or b"")
    return None if len(log.arrivals) == round_.world_size and len(log.tags) == 1 else log


def _break_before_removal(round_: Round, why: Break, arrived: bool) -> Steps[Outcome]:
    if arrived and (yield Withdraw()):
        return None
    yield Append(round_.own_keys.log, break_record(why))
    if arrived:
        yield Remove(round_.own_keys.release)
    return (yield from _ask(round_))


def _log_not_consulted(round_: Round, why: Break, arrived: bool) -> Steps[Outcome]:
    if arrived:
        if (yield Withdraw()):
            return None
        yield Remove(round_.own_keys.release)
    yield Append(round_.own_keys.log, break_record(why))
    return Log([], why)


def _signal_not_removed(round_: Round, why: Break, arrived: bool) -> Steps[Outcome]:
    if arrived and (yield Withdraw()):
        return None
    yield Append(round_.own_keys.log, break_record(why))
    return (yield from _ask(round_))


def _still_listening(round_: Round, why: Break, arrived: bool) -> Steps[Outcome]:
    if arrived:
        yield Remove(round_.own_keys.release)
    return (yield from give_up(round_, why, arrived=False))


def _trusts_an_emptied_store(round_: Round, why: Break, arrived: bool) -> Steps[Verdict | None]:
    believed = round_._replace(job=b"")
    concluding = conclude(believed, why, arrived)
    answer: Any = None
    while True:
        try:
            operation = concluding.send(answer)
        except StopIteration as done:
            result: Verdict | None = done.value
            return result
        is_about_the_job = isinstance(operation, Read) and operation.key == round_.keys.job
        answer = believed.job if is_about_the_job else (yield operation)


def _same_keys_every_round(number: int, tag: str) -> RoundKeys:
    return KEYS.round(1, tag)


def _one_signal_for_all_tags(number: int, tag: str) -> RoundKeys:
    return KEYS.round(number, "")


def _never_outdated(posted: Posted, number: int) -> bool:
    return False


BREAK_BEFORE_REMOVAL = Protocol(give_up=_break_before_removal)
"""The break is in the log while the release signal can still come."""
LOG_NOT_CONSULTED = Protocol(give_up=_log_not_consulted)
"""A rank that gives up takes its own word for the outcome."""
REMOVED_TOO_EARLY = Protocol(kept_rounds=0)
"""The keys of a round go as soon as rank 0 has passed it."""
REUSED_TOO_EARLY = Protocol(round_keys=_same_keys_every_round)
"""A round uses the keys of the one before it."""
SIGNAL_NOT_REMOVED = Protocol(give_up=_signal_not_removed)
"""A release signal that is given up can still come."""
STILL_LISTENING = Protocol(give_up=_still_listening)
"""A rank that gives up leaves its release signal on the connection, for the next round."""
ONE_SIGNAL = Protocol(round_keys=_one_signal_for_all_tags)
"""Ranks with different tags are counted together."""
EMPTIED_STORE = Protocol(conclude=_trusts_an_emptied_store)
"""A rank that gives up believes a store that has forgotten the job."""
FINISHED_TWICE = Protocol(interrupted_rounds_are_ended_once=False)
"""A round that is interrupted is ended where it is settled, and once more by who called it."""
STALE_REASON = Protocol(is_outdated=_never_outdated)
"""A reason that was found in one round ends the next one."""
ABORT_LOST = Protocol(mailbox_survives_a_round=False)
"""Whoever ends a round empties the mailbox."""
