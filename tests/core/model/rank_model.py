"""A rank of the model: where it stands, and every step that it or a fault can take next.

A step is one operation of the store, or one thing that happens to the rank. What the engine does in
`barrier_core.agreement.barrier` and `watcher` is retold here operation by operation; how a round is
given up, the keys, the records and the reading of a log are the real code.

Every step takes its rank forward in its life, so every run ends: a rank that goes on asking always
comes to an end unless a state is reached in which it waits and nothing can tell it anything.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec

from barrier_core.agreement.keys import Keys, RoundKeys
from barrier_core.agreement.protocol import (
    Append,
    Read,
    Remove,
    Steps,
    Withdraw,
    give_up,
)
from barrier_core.agreement.round_log import Break, Log, arrival_record, parse
from barrier_core.verdict import RankStatus, Verdict
from tests.core.model.store_model import Store, visible

Place = Literal["idle", "arriving", "waiting", "giving up", "broken", "done", "dead"]
Fault = Literal["timeout", "abort", "death"]
KEYS = Keys("ckpt", "0")


class Protocol(NamedTuple):
    """The parts of the protocol that a mutant can replace."""

    give_up: Callable[[RoundKeys, Break, int, bool], Steps[Log | None]] = give_up
    round_keys: Callable[[int, str], RoundKeys] = KEYS.round
    kept_rounds: int = 1
    """How many of the rounds that rank 0 has passed keep their keys."""


class Scenario(NamedTuple):
    """What is explored."""

    world_size: int
    rounds: int
    tags: tuple[tuple[int, int, str], ...] = ()
    """Rank, round and tag, where a rank comes with another tag than none."""
    has_bell: bool = True
    """Without one, ranks wait by reading the log, as over a store that cannot count."""
    protocol: Protocol = Protocol()

    def tag(self, rank: int, number: int) -> str:
        return next((tag for *who, tag in self.tags if who == [rank, number]), "")

    def keys(self, rank: int, number: int) -> RoundKeys:
        return _round_keys(self.protocol.round_keys, number, self.tag(rank, number))


@cache
def _round_keys(make: Callable[[int, str], RoundKeys], number: int, tag: str) -> RoundKeys:
    return make(number, tag)


class Faults(NamedTuple):
    """How many faults of each kind may still happen; None: any number."""

    timeout: int | None = None
    abort: int | None = None
    death: int | None = None

    def after(self, fault: Fault) -> Faults:
        """What is left after one more."""
        left: int | None = getattr(self, fault)
        return self if left is None else self._replace(**{fault: left - 1})


class Rank(NamedTuple):
    """Where a rank stands in its life; with the store, all that its next steps depend on."""

    round: int = 1
    at: Place = "idle"
    appended: bool = False
    """Whether its arrival at this round is in the log: the truth, which the rank may not know."""
    arrived: bool = False
    """Whether it believes so when it gives up."""
    why: Break | None = None
    answers: tuple[Any, ...] = ()
    """What it has been answered while giving up. Generators cannot be copied, but replayed."""
    verdict: Verdict | None = None
    collected: int = 0
    """Keys of finished rounds that it has removed; rank 0 only."""


class Step(NamedTuple):
    """One step: what it is, and what comes of it."""

    label: str
    rank: Rank
    store: Store
    fault: Fault | None = None


class Write(NamedTuple):
    """Set a key."""

    key: str
    value: bytes


class Create(NamedTuple):
    """Set a key if it is missing; answers the value that stands."""

    key: str
    value: bytes


Operation = Withdraw | Remove | Append | Read | Write | Create
_PENDING = object()


def steps(scenario: Scenario, me: int, rank: Rank, store: Store, faults: Faults) -> Iterator[Step]:
    """Every step that rank ``me`` can take, and every fault that can befall it."""
    if rank.at != "dead":
        yield from _collect(scenario, me, rank, store)
    if rank.at not in ("dead", "broken", "done"):
        yield from _own_steps(scenario, me, rank, store)
        yield from _faults(scenario, me, rank, store, faults)


def _own_steps(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    if rank.at == "idle":
        yield from _idle(scenario, me, rank, store)
    elif rank.at == "arriving":
        bell = scenario.keys(me, rank.round).bell
        # Whoever gives up after this has been counted in: `StoreClient.withdraw` is a fence.
        rung = store.ring(me, bell, scenario.world_size) if scenario.has_bell else store
        yield Step(f"rings {bell}", rank._replace(at="waiting"), rung)
    elif rank.at == "waiting":
        yield from _waiting(scenario, me, rank, store)
    else:
        yield _giving_up(scenario, me, rank, store)


def _faults(
    scenario: Scenario, me: int, rank: Rank, store: Store, faults: Faults
) -> Iterator[Step]:
    if faults.death != 0:
        corpse = Rank(rank.round, "dead", rank.appended)
        yield Step("dies", corpse, store.bury(me), "death")
    if faults.timeout != 0 and rank.at == "waiting":
        why = Break("timeout", me, "")
        yield _gives_up(scenario, me, "times out", rank, store, why, True, "timeout")
    abort = Break("abort", me, "")
    if faults.abort != 0 and rank.why != abort:
        # While it waits, by `abort` or by a signal; at any other time by a signal. The engine takes
        # itself for arrived before anything is sent, since a signal handler may raise in between.
        arrived = rank.arrived if rank.at == "giving up" else True
        yield _gives_up(scenario, me, "is interrupted", rank, store, abort, arrived, "abort")
        if rank.at == "idle":
            yield _gives_up(scenario, me, "aborts", rank, store, abort, False, "abort")


def _idle(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    record = arrival_record(me, scenario.tag(me, rank.round))
    log = scenario.keys(me, rank.round).log
    yield Step(
        f"appends {record!r} to {log}",
        rank._replace(at="arriving", appended=True),
        store.append(log, record),
    )
    verdict = _verdict(store)
    if verdict is not None:
        yield _broken(rank, store, "is told before it arrives", verdict)


def _waiting(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    if me in store.heard:
        yield _passes(scenario, rank, store.hear(me), "hears the bell")
    # What the watcher asks, and the caller does about it. Reading and acting are one step. Why this
    # loses nothing: a verdict, a passed round, a break, a complete log and a death stay what they
    # are, so a rank that acts late on a finding behaves like one that asked late.
    verdict, passed = _verdict(store), store.read(KEYS.passed)
    if verdict is not None:
        if verdict.round > rank.round:
            withdrawn, _ = store.withdraw(me)
            yield _passes(scenario, rank, withdrawn, f"sees a verdict on round {verdict.round}")
        else:
            # It does not withdraw: the bell must never ring for it.
            yield _broken(rank, store, "sees the verdict", verdict)
    elif passed is not None and int(passed) >= rank.round:
        withdrawn, _ = store.withdraw(me)
        yield _passes(scenario, rank, withdrawn, f"sees that round {int(passed)} has passed")
    else:
        yield from _look(scenario, me, rank, store)


def _look(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    log = _parse(store.read(scenario.keys(me, rank.round).log) or b"")
    here = {arrival.rank for arrival in log.arrivals}
    missing_dead = sorted(set(store.dead) - here)
    if log.broken_by is not None:
        label = f"sees the break of rank {log.broken_by.rank} in the log"
        yield _gives_up(scenario, me, label, rank, store, log.broken_by, True)
    elif me not in here:
        return
    elif len(log.tags) > 1:
        why = Break("mismatch", me, "")
        yield _gives_up(scenario, me, "sees several tags", rank, store, why, True)
    elif len(here) == scenario.world_size:
        withdrawn, _ = store.withdraw(me)
        yield _passes(scenario, rank, withdrawn, "sees in the log that all have arrived")
    elif missing_dead:
        label = f"sees that rank {missing_dead[0]} is dead"
        yield _gives_up(scenario, me, label, rank, store, Break("dead", me, ""), True)


def _gives_up(
    scenario: Scenario,
    me: int,
    label: str,
    rank: Rank,
    store: Store,
    why: Break,
    arrived: bool,
    fault: Fault | None = None,
) -> Step:
    """Decide to give the round up.

    To stop waiting for the bell is part of the same step. Why this loses nothing: deciding touches
    nothing but the rank itself, so a decision made earlier comes to the same as one made just then.
    """
    after = rank._replace(at="giving up", why=why, arrived=arrived, answers=())
    label = f"{label} and gives round {rank.round} up"
    if _replay(scenario, me, after)[0] == Withdraw():
        store, rung = store.withdraw(me)
        after = after._replace(answers=(rung,))
        label += f"; the bell had {'' if rung else 'not '}rung"
    return Step(label, after, store, fault)


def _giving_up(scenario: Scenario, me: int, rank: Rank, store: Store) -> Step:
    operation, _ = _replay(scenario, me, rank)
    store_after, answer = _perform(store, me, operation)
    after = rank._replace(answers=(*rank.answers, answer))
    label = f"{_describe(operation)}{f' -> {answer!r}' if isinstance(operation, Read) else ''}"
    _, result = _replay(scenario, me, after)
    if result is _PENDING:
        return Step(label, after, store_after)
    if result is None:
        return _passes(scenario, rank, store_after, label)
    return _broken(rank, store_after, label, result)


def _settle(scenario: Scenario, me: int, rank: Rank) -> Generator[Operation, Any, Verdict | None]:
    """Give a round up, and tell the others what came of it."""
    assert rank.why is not None
    keys = scenario.keys(me, rank.round)
    log = yield from scenario.protocol.give_up(keys, rank.why, scenario.world_size, rank.arrived)
    if log is None:
        yield Write(KEYS.passed, b"%d" % rank.round)
        return None
    broken_by = log.broken_by or rank.why  # a mutant may have lost its own break
    missing = set(range(scenario.world_size)) - {arrival.rank for arrival in log.arrivals}
    verdict = Verdict(
        kind=broken_by.kind,
        round=rank.round,
        rank=broken_by.rank,
        reason=broken_by.reason,
        world_size=scenario.world_size,
        # What each rank sees differently: all must raise one rank's view.
        missing=tuple(RankStatus(other, detail=f"seen by {me}") for other in sorted(missing)),
    )
    standing = yield Create(KEYS.verdict, msgspec.json.encode(verdict))
    return msgspec.json.decode(standing, type=Verdict)


@cache
def _replay(scenario: Scenario, me: int, rank: Rank) -> tuple[Any, Any]:
    """Return the operation that comes after the answers so far, and else what it all came to."""
    settling = _settle(scenario, me, rank)
    try:
        operation = next(settling)
        for answer in rank.answers:
            operation = settling.send(answer)
    except StopIteration as done:
        return None, done.value
    return operation, _PENDING


def _perform(store: Store, me: int, operation: Operation) -> tuple[Store, Any]:
    if isinstance(operation, Withdraw):
        return store.withdraw(me)
    if isinstance(operation, Remove):
        (key,) = operation.keys
        return store.remove(key), None
    if isinstance(operation, Append):
        return store.append(operation.key, operation.record), None
    if isinstance(operation, Read):
        return store, visible(store.read(operation.key))
    if isinstance(operation, Write):
        return store.write(operation.key, operation.value), None
    return store.create(operation.key, operation.value)


def _collect(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    """Remove keys of finished rounds one by one, on the watcher's line, at any later time."""
    number, which = divmod(rank.collected, 2)
    number += 1
    if me != 0 or number > rounds_passed(rank) - scenario.protocol.kept_rounds:
        return
    keys = scenario.keys(me, number)
    key = keys.log if which else keys.bell
    yield Step(
        f"removes {key}, which is finished",
        rank._replace(collected=rank.collected + 1),
        store.remove(key),
    )


def _passes(scenario: Scenario, rank: Rank, store: Store, label: str) -> Step:
    after = Rank(round=rank.round + 1, collected=rank.collected)
    if rank.round == scenario.rounds:
        after = after._replace(at="done")
    return Step(f"{label}: PASSES round {rank.round}", after, store)


def _broken(rank: Rank, store: Store, label: str, verdict: Verdict) -> Step:
    after = Rank(rank.round, "broken", rank.appended, verdict=verdict, collected=rank.collected)
    who = f"{verdict.kind} by rank {verdict.rank} in round {verdict.round}"
    if verdict.missing:
        who += f", missing {[status.rank for status in verdict.missing]}"
    return Step(f"{label}: RAISES in round {rank.round}: {who}", after, store)


def _verdict(store: Store) -> Verdict | None:
    value = store.read(KEYS.verdict)
    return None if value is None else _decode(value)


_parse = cache(parse)
_decode = cache(msgspec.json.Decoder(Verdict).decode)


def rounds_passed(rank: Rank) -> int:
    """How many rounds a rank has passed."""
    return rank.round - 1


def _describe(operation: Operation) -> str:
    if isinstance(operation, Withdraw):
        return "stops waiting for the bell"
    if isinstance(operation, Remove):
        return f"removes {', '.join(operation.keys)}"
    if isinstance(operation, Append):
        return f"appends {operation.record!r} to {operation.key}"
    if isinstance(operation, Read):
        return f"reads {operation.key}"
    if isinstance(operation, Write):
        return f"writes {operation.value!r} to {operation.key}"
    return f"creates {operation.key}"
