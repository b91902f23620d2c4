"""What a rank does in a round, as values: the protocol yields them, the engine performs them."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.keys import Series
from barrier_core.agreement.reasons import Reason
from barrier_core.agreement.store import StoreClient
from barrier_core.verdict import RankStatus

T = TypeVar("T")


class Performer(Protocol):
    """What performs a rank's operations: the engine, in each rank."""

    client: StoreClient
    """The connection on which the rank arrives."""

    def arrive(self, series: Series, number: int) -> None:
        """Append the rank's arrival, and count it in."""

    def await_release(self) -> bool:
        """Wait for the release signal; False if there may be a reason to stop."""

    def next_reason(self, number: int) -> Reason | None:
        """Return why the rank must not wait any longer in this round; None if it may."""

    def describe(self, ranks: Sequence[int]) -> tuple[RankStatus, ...]:
        """Say of missing ranks where they run and whether they live."""


class Arrive(NamedTuple):
    """Append the rank's arrival, and count it in."""

    series: Series
    number: int

    def perform(self, performer: Performer) -> None:
        """Do it."""
        performer.arrive(self.series, self.number)


class AwaitRelease(NamedTuple):
    """Wait for the release signal; answers whether it has come. False: look for a reason."""

    def perform(self, performer: Performer) -> bool:
        """Do it."""
        return performer.await_release()


class NextReason(NamedTuple):
    """Look for a reason not to wait any longer; answers it, or None."""

    number: int

    def perform(self, performer: Performer) -> Reason | None:
        """Do it."""
        return performer.next_reason(self.number)


class Withdraw(NamedTuple):
    """Stop waiting for the release signal; answers whether it had come."""

    def perform(self, performer: Performer) -> bool:
        """Do it."""
        return performer.client.withdraw()


class Remove(NamedTuple):
    """Remove a key."""

    key: str

    def perform(self, performer: Performer) -> None:
        """Do it."""
        performer.client.remove([self.key])


class Append(NamedTuple):
    """Append a record."""

    key: str
    record: bytes

    def perform(self, performer: Performer) -> None:
        """Do it."""
        performer.client.append(self.key, self.record)


class Read(NamedTuple):
    """Read one key; answers its value, or None."""

    key: str

    def perform(self, performer: Performer) -> bytes | None:
        """Do it."""
        return performer.client.read([self.key])[0]


class Write(NamedTuple):
    """Set a key."""

    key: str
    value: bytes

    def perform(self, performer: Performer) -> None:
        """Do it."""
        performer.client.write(self.key, self.value)


class Create(NamedTuple):
    """Set a key if it is missing; answers the value that stands."""

    key: str
    value: bytes

    def perform(self, performer: Performer) -> bytes:
        """Do it."""
        return performer.client.create(self.key, self.value)


class Describe(NamedTuple):
    """Say of missing ranks where they run and whether they live; answers a status for each."""

    ranks: tuple[int, ...]

    def perform(self, performer: Performer) -> tuple[RankStatus, ...]:
        """Do it."""
        return performer.describe(self.ranks)


Operation = (
    Arrive
    | AwaitRelease
    | NextReason
    | Withdraw
    | Remove
    | Append
    | Read
    | Write
    | Create
    | Describe
)
Steps = Generator[Operation, Any, T]


def run(steps: Steps[T], performer: Performer) -> T:
    """Perform the steps of the protocol, one by one."""
    answer: Any = None
    while True:
        try:
            operation = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        # A slow store may answer each question in time, and yet take too long for all of them.
        if time.monotonic() > performer.client.answer_by:
            raise StoreLostError("its answers take too long")
        answer = operation.perform(performer)
