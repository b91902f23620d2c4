"""How a round is given up so that all ranks agree on whether it passed.

A total order decides, a counter is only the bell. Every rank appends its arrival to the round's log
and is then counted in at the round's bell; the bell rings when all are in, and who hears it has
passed. A rank that does not want to wait any longer asks the log:

1. *withdraw*: stop listening for the bell. If it had rung, the round has passed.
2. *remove the bell*. Who has rung it is forgotten, so from here on it cannot ring: this rank, which
   has been counted in before or never will be, is not counted again.
3. *append a break* to the log.
4. *read the log*. All arrivals before the first break: the round has passed. Otherwise the first
   break has broken it.

Why this is safe: a bell that rang was rung by N ranks before any removal, each after its own
arrival, so N arrivals precede every break in the log, and all who ask it decide "passed". If no
bell rang, every rank gets its answer from the same log, whose prefix up to the first break never
changes. Ranks with different tags ring different bells, so a mismatch never passes.

The steps are generators that yield operations, so that the engine runs them on a real store and the
tests run the same code through every interleaving on a model.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from barrier_core.agreement.keys import RoundKeys
from barrier_core.agreement.round_log import Break, Log, break_record, parse
from barrier_core.agreement.store import StoreClient

T = TypeVar("T")


class Withdraw(NamedTuple):
    """Stop waiting for the bell; answers whether it had rung."""

    def run(self, line: StoreClient) -> bool:
        """Do it on a line."""
        return line.withdraw()


class Remove(NamedTuple):
    """Remove keys."""

    keys: tuple[str, ...]

    def run(self, line: StoreClient) -> None:
        """Do it on a line."""
        line.remove(self.keys)


class Append(NamedTuple):
    """Append a record."""

    key: str
    record: bytes

    def run(self, line: StoreClient) -> None:
        """Do it on a line."""
        line.append(self.key, self.record)


class Read(NamedTuple):
    """Read one key; answers its value, or None."""

    key: str

    def run(self, line: StoreClient) -> bytes | None:
        """Do it on a line."""
        return line.read([self.key])[0]


Operation = Withdraw | Remove | Append | Read
Steps = Generator[Operation, Any, T]


def run(steps: Steps[T], line: StoreClient) -> T:
    """Run the steps of the protocol on a real line."""
    answer: Any = None
    while True:
        try:
            operation = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        answer = operation.run(line)


def give_up(keys: RoundKeys, why: Break, world_size: int, arrived: bool) -> Steps[Log | None]:
    """Break a round unless it has passed: None if it has, else the log that says who broke it.

    Args:
        keys: The round's keys, with the tag that this rank has arrived with.
        why: The break to append; another rank's may come first.
        world_size: Number of ranks.
        arrived: Whether this rank has arrived. If not, it must never arrive afterwards.
    """
    if arrived:
        if (yield Withdraw()):
            return None
        yield Remove((keys.bell,))
    # A rank that has not arrived, and never will, has no bell to remove: none can ring without it.
    yield Append(keys.log, break_record(why))
    log = parse((yield Read(keys.log)) or b"")
    # Count arrivals as the bell does: all of them, and all with one tag.
    if len(log.arrivals) == world_size and len(log.tags) == 1:
        return None
    return log
