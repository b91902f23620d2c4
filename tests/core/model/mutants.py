"""Protocols that are almost right. The checker must find what is wrong with each of them."""

from __future__ import annotations

from barrier_core.agreement.keys import RoundKeys
from barrier_core.agreement.protocol import (
    Append,
    Read,
    Remove,
    Steps,
    Withdraw,
    give_up,
)
from barrier_core.agreement.round_log import Break, Log, break_record, parse
from tests.core.model.rank_model import KEYS, Protocol


def _ask(keys: RoundKeys, world_size: int) -> Steps[Log | None]:
    log = parse((yield Read(keys.log)) or b"")
    return None if len(log.arrivals) == world_size and len(log.tags) == 1 else log


def _break_before_removal(
    keys: RoundKeys, why: Break, world_size: int, arrived: bool
) -> Steps[Log | None]:
    if arrived and (yield Withdraw()):
        return None
    yield Append(keys.log, break_record(why))
    if arrived:
        yield Remove((keys.bell,))
    return (yield from _ask(keys, world_size))


def _log_not_consulted(
    keys: RoundKeys, why: Break, world_size: int, arrived: bool
) -> Steps[Log | None]:
    if arrived:
        if (yield Withdraw()):
            return None
        yield Remove((keys.bell,))
    yield Append(keys.log, break_record(why))
    return Log([], why)


def _bell_not_removed(
    keys: RoundKeys, why: Break, world_size: int, arrived: bool
) -> Steps[Log | None]:
    if arrived and (yield Withdraw()):
        return None
    yield Append(keys.log, break_record(why))
    return (yield from _ask(keys, world_size))


def _still_listening(
    keys: RoundKeys, why: Break, world_size: int, arrived: bool
) -> Steps[Log | None]:
    if arrived:
        yield Remove((keys.bell,))
    return (yield from give_up(keys, why, world_size, arrived=False))


def _same_keys_every_round(number: int, tag: str) -> RoundKeys:
    return KEYS.round(1, tag)


def _one_bell_for_all_tags(number: int, tag: str) -> RoundKeys:
    return KEYS.round(number, "")


BREAK_BEFORE_REMOVAL = Protocol(give_up=_break_before_removal)
"""The break is in the log while the bell can still ring."""
LOG_NOT_CONSULTED = Protocol(give_up=_log_not_consulted)
"""A rank that gives up takes its own word for the outcome."""
REMOVED_TOO_EARLY = Protocol(kept_rounds=0)
"""The keys of a round go as soon as rank 0 has passed it."""
REUSED_TOO_EARLY = Protocol(round_keys=_same_keys_every_round)
"""A round uses the keys of the one before it."""
BELL_NOT_REMOVED = Protocol(give_up=_bell_not_removed)
"""A bell that is given up can still ring."""
STILL_LISTENING = Protocol(give_up=_still_listening)
"""A rank that gives up leaves the answer to its ring on the line, for the next round."""
ONE_BELL = Protocol(round_keys=_one_bell_for_all_tags)
"""Ranks with different tags ring the same bell."""
