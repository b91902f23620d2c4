"""A rank of the model: where it stands, and every step that it or a fault can take next.

A step is one operation of the store, or one thing that happens to the rank. Every decision is the
engine's own code, run as it is: how a round is gone through, given up and settled, which reason in
the mailbox counts, and what the store and the log tell a watcher (`agreement.protocol`). The model
adds what surrounds it: who takes a step when, what a store does, and what can go wrong.

Every step takes its rank forward in its life, so every run ends: a rank that goes on asking always
comes to an end unless a state is reached in which it waits and nothing can tell it anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import msgspec

from barrier_core.agreement import protocol
from barrier_core.agreement.operations import (
    Append,
    Arrive,
    AwaitRelease,
    Create,
    Describe,
    NextReason,
    Operation,
    Read,
    Remove,
    Steps,
    Withdraw,
    Write,
)
from barrier_core.agreement.protocol import (
    conclude,
    evidence_in_log,
    evidence_in_store,
    give_up,
    go_through,
    settle,
)
from barrier_core.agreement.reasons import Posted, Reason, StoreLost
from barrier_core.agreement.round_log import Break, decode_break, decode_verdict, parse, passed
from barrier_core.verdict import RankStatus, Verdict
from tests.core.model.scenario import (
    JOB,
    KEYS,
    STRANGER,
    Fault,
    Faults,
    Rank,
    Scenario,
    Task,
)
from tests.core.model.store_model import Store, visible


class Step(NamedTuple):
    """One step: what it is, and what comes of it."""

    label: str
    rank: Rank
    store: Store
    fault: Fault | None = None


_PENDING = object()


def steps(scenario: Scenario, me: int, rank: Rank, store: Store, faults: Faults) -> Iterator[Step]:
    """Every step that rank ``me`` can take, and every fault that can befall it."""
    if rank.at == "dead":
        return
    yield from _collect(scenario, me, rank, store)
    if rank.at == "broken":
        return
    if rank.task is not None:
        yield from _go_on(scenario, me, rank, store)
        if rank.at == "in a round":
            yield from _watch(scenario, me, rank, store, faults)
    else:
        yield from _between_rounds(scenario, me, rank, store)
    yield from _faults(scenario, me, rank, store, faults)


def _between_rounds(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    if rank.at == "outside":
        entered = rank._replace(at="in a round", task=Task())
        yield Step(f"enters round {rank.round}", entered, store)
    reason = _next_reason(scenario, rank)
    if reason is not None:
        # Whoever has posted it takes the turn, or whoever gives the turn back sees it.
        settling = rank._replace(task=Task(reason))
        yield Step("settles its mailbox between rounds", settling, store)
    if not rank.has_noticed:
        notice = evidence_in_store(*_own_keys(store), None)
        if notice is not None:
            posted = rank._replace(mailbox=(*rank.mailbox, Posted(notice)), has_noticed=True)
            yield Step("'s watcher posts what it finds between rounds", posted, store)


def _go_on(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    """Perform the next operation of what the rank is at."""
    assert rank.task is not None
    operation, result = _replay(scenario, me, rank.round, rank.task)
    if operation is None:  # what others have decided needs no step
        yield _finish(scenario, rank, store, "is told", result)
    elif isinstance(operation, Arrive):
        yield _arrive(scenario, me, rank, store)
    elif isinstance(operation, AwaitRelease):
        if me in store.released:
            yield _answered(scenario, me, rank, store.receive(me), "is released", True)
        elif not scenario.can_count and _has_passed(scenario, me, rank, store):
            yield _answered(scenario, me, rank, store, "sees in the log that all are there", True)
        if _next_reason(scenario, rank) is not None:
            yield _answered(scenario, me, rank, store, "stops waiting", False)
    elif isinstance(operation, NextReason):
        reason = _next_reason(scenario, rank)
        label = "looks into its mailbox"
        yield _answered(scenario, me, rank, store, label, reason)
    else:
        after, answer = _perform(store, me, operation)
        said = f" -> {answer!r}" if isinstance(operation, Read) else ""
        yield _answered(scenario, me, rank, after, f"{_describe(operation)}{said}", answer)


def _has_passed(scenario: Scenario, me: int, rank: Rank, store: Store) -> bool:
    log = store.read(scenario.keys(me, rank.round).log) or b""
    return store.read(KEYS.job) == JOB and passed(log, scenario.world_size)


def _arrive(scenario: Scenario, me: int, rank: Rank, store: Store) -> Step:
    """Arrive in two steps: who gives up later has been counted, as `withdraw` is a fence."""
    round_ = scenario.round(me, rank.round)
    if not rank.appended:
        appended = rank._replace(appended=True)
        label = f"appends {round_.series.record!r} to {round_.own_keys.log}"
        return Step(label, appended, store.append(round_.own_keys.log, round_.series.record))
    if not scenario.can_count:
        return _answered(scenario, me, rank, store, "has arrived", None)
    release = round_.own_keys.release
    after = store.count_in(me, release, scenario.world_size)
    return _answered(scenario, me, rank, after, f"is counted in at {release}", None)


def _answered(
    scenario: Scenario, me: int, rank: Rank, store: Store, label: str, answer: Any
) -> Step:
    """Go on with an answer; at the end, end the round."""
    assert rank.task is not None
    task = rank.task._replace(answers=(*rank.task.answers, answer))
    _, result = _replay(scenario, me, rank.round, task)
    if result is _PENDING:
        return Step(label, rank._replace(task=task), store)
    return _finish(scenario, rank, store, label, result)


def _finish(
    scenario: Scenario, rank: Rank, store: Store, label: str, verdict: Verdict | None
) -> Step:
    """End a round, as `Barrier._finish` does."""
    assert rank.task is not None
    was_interrupted = rank.task.reason is not None and rank.at == "in a round"
    twice = was_interrupted and not scenario.protocol.interrupted_rounds_are_ended_once
    told = rank.told + (2 if twice else 1)
    if verdict is not None:
        after = rank._replace(at="broken", task=None, verdict=_hashable(verdict), told=told)
        who = f"{verdict.kind} by rank {verdict.rank} in round {verdict.round}"
        if verdict.missing:
            who += f", missing {[status.rank for status in verdict.missing]}"
        return Step(f"{label}: RAISES in round {rank.round}: {who}", after, store)
    mailbox = rank.mailbox if scenario.protocol.mailbox_survives_a_round else ()
    after = Rank(
        round=rank.round + 1,
        at="done" if rank.round == scenario.rounds else "outside",
        mailbox=tuple(
            each for each in mailbox if not scenario.protocol.is_outdated(each, rank.round + 1)
        ),
        has_noticed=rank.has_noticed,
        late=rank.late,
        told=told,
        was_aborted=rank.was_aborted,
        collected=rank.collected,
    )
    return Step(f"{label}: PASSES round {rank.round}", after, store)


def _watch(scenario: Scenario, me: int, rank: Rank, store: Store, faults: Faults) -> Iterator[Step]:
    """Let the watcher ask and look, and post what it finds, at once or after the round has ended.

    Reading and posting at once are one step. Why this loses nothing: a verdict, a passed round, a
    break, a complete log and a death stay what they are, so a watcher that posts late, but within
    the round, is like one that has looked late.
    """
    assert rank.task is not None
    operation, _ = _replay(scenario, me, rank.round, rank.task)
    if rank.has_evidence or not isinstance(operation, AwaitRelease):
        return
    reason = evidence_in_store(*_own_keys(store), rank.round)
    about = None
    if reason is None:
        log = _parse(store.read(scenario.keys(me, rank.round).log) or b"")
        reason = evidence_in_log(log, me, scenario.world_size, rank.round, store.dead)
        about = rank.round
    if reason is None:
        return
    posted = Posted(reason, about)
    found = rank._replace(has_evidence=True)
    label = f"'s watcher finds {_name(reason)}"
    yield Step(label, found._replace(mailbox=(*rank.mailbox, posted)), store)
    if faults.late != 0 and rank.late is None:
        yield Step(f"{label}, and is slow to say so", found._replace(late=posted), store, "late")


def _faults(
    scenario: Scenario, me: int, rank: Rank, store: Store, faults: Faults
) -> Iterator[Step]:
    if rank.late is not None:
        posted = rank._replace(mailbox=(*rank.mailbox, rank.late), late=None)
        yield Step("'s watcher posts at last what it has found", posted, store)
    if faults.death != 0 and rank.at != "done":
        corpse = Rank(rank.round, "dead", appended=rank.appended, told=rank.told)
        yield Step("dies", corpse, store.bury(me), "death")
    if faults.alarm != 0 and me == 0 and store.read(KEYS.alarm) is None:
        alarm = msgspec.json.encode(Break("conflict", STRANGER, ""))
        raised, _ = store.create(KEYS.alarm, alarm)
        yield Step("hears nothing of a stranger that raises the alarm", rank, raised, "alarm")
    if faults.flush != 0 and me == 0 and store.read(KEYS.job) is not None:
        yield Step("sees nothing of a store that forgets all", rank, store.flush(), "flush")
    abort = Break("abort", me, "")
    if faults.abort != 0 and not rank.was_aborted:
        mailbox = (*rank.mailbox, Posted(abort))
        aborted = rank._replace(mailbox=mailbox, was_aborted=True)
        yield Step("is told to abort", aborted, store, "abort")
    task = rank.task
    if task is None:
        return
    if rank.at != "in a round":
        if faults.interrupt != 0:  # the reason stays in the mailbox
            yield Step("is interrupted", rank._replace(task=None), store, "interrupt")
        return
    if faults.timeout != 0 and task.reason is None and _next_reason(scenario, rank) is None:
        operation, _ = _replay(scenario, me, rank.round, task)
        if isinstance(operation, AwaitRelease):
            late = task._replace(answers=(*task.answers, False, Break("timeout", me, "")))
            yield Step("times out", rank._replace(task=late), store, "timeout")
    interrupt = Posted(abort, rank.round)
    if faults.interrupt != 0 and interrupt not in rank.mailbox:
        mailbox = (*rank.mailbox, interrupt)
        interrupted = rank._replace(mailbox=mailbox)
        reason = _next_reason(scenario, interrupted)
        again = interrupted._replace(task=Task(reason, rank.has_arrived))
        yield Step("is interrupted", again, store, "interrupt")


def _next_reason(scenario: Scenario, rank: Rank) -> Reason | None:
    outdated = scenario.protocol.is_outdated
    return next((each.reason for each in rank.mailbox if not outdated(each, rank.round)), None)


@cache
def _replay(scenario: Scenario, me: int, number: int, task: Task) -> tuple[Any, Any]:
    """Return the operation that comes after the answers so far, and else what it all came to."""
    round_ = scenario.round(me, number)
    running: Steps[Verdict | None]
    if task.reason is None:
        running = go_through(round_)
    else:
        running = settle(round_, task.reason, task.arrived)
    # A mutant's, or the engine's own.
    protocol.give_up = scenario.protocol.give_up  # type: ignore[assignment]
    protocol.conclude = scenario.protocol.conclude  # type: ignore[assignment]
    try:
        operation = next(running)
        for answer in task.answers:
            operation = running.send(answer)
    except StopIteration as done:
        return None, done.value
    finally:
        protocol.give_up, protocol.conclude = give_up, conclude
    return operation, _PENDING


def _perform(store: Store, me: int, operation: Operation) -> tuple[Store, Any]:
    if isinstance(operation, Withdraw):
        return store.withdraw(me)
    if isinstance(operation, Remove):
        return store.remove(operation.key), None
    if isinstance(operation, Append):
        return store.append(operation.key, operation.record), None
    if isinstance(operation, Read):
        return store, visible(store.read(operation.key))
    if isinstance(operation, Write):
        return store.write(operation.key, operation.value), None
    if isinstance(operation, Describe):
        # What each rank sees differently: all must raise one rank's view.
        return store, tuple(RankStatus(rank, detail=f"seen by {me}") for rank in operation.ranks)
    assert isinstance(operation, Create)
    return store.create(operation.key, operation.value)


def _collect(scenario: Scenario, me: int, rank: Rank, store: Store) -> Iterator[Step]:
    """Remove keys of finished rounds one by one, on the watcher's connection, at any later time."""
    number, which = divmod(rank.collected, 2)
    number += 1
    if me != 0 or number > rounds_passed(rank) - scenario.protocol.kept_rounds:
        return
    keys = scenario.keys(me, number)
    key = keys.log if which else keys.release
    yield Step(
        f"removes {key}, which is finished",
        rank._replace(collected=rank.collected + 1),
        store.remove(key),
    )


def _own_keys(store: Store) -> tuple[bool, Verdict | None, Break | None, int | None]:
    verdict, alarm, passed = map(store.read, (KEYS.verdict, KEYS.alarm, KEYS.passed))
    return (
        store.read(KEYS.job) != JOB,
        None if verdict is None else _decode_verdict(verdict),
        None if alarm is None else decode_break(alarm),
        None if passed is None else int(passed),
    )


def _hashable(verdict: Verdict) -> Verdict:
    return replace(verdict, tags=None)


@cache
def _decode_verdict(data: bytes) -> Verdict:
    return _hashable(decode_verdict(data))


_parse = cache(parse)


def rounds_passed(rank: Rank) -> int:
    """How many rounds a rank has passed."""
    return rank.round - 1


def _name(reason: Reason) -> str:
    if isinstance(reason, Verdict):
        return f"a verdict on round {reason.round}"
    if isinstance(reason, Break):
        return f"{reason.kind} by rank {reason.rank}"
    if isinstance(reason, StoreLost):
        return "that the store has forgotten the barrier"
    return "that the round has passed"


def _describe(operation: Operation) -> str:
    if isinstance(operation, Withdraw):
        return "stops waiting for the release signal"
    if isinstance(operation, Remove):
        return f"removes {operation.key}"
    if isinstance(operation, Append):
        return f"appends {operation.record!r} to {operation.key}"
    if isinstance(operation, Read):
        return f"reads {operation.key}"
    if isinstance(operation, Write):
        return f"writes {operation.value!r} to {operation.key}"
    if isinstance(operation, Create):
        return f"creates {operation.key}"
    return "asks who is missing"
