"""What the agreement engine needs of a key-value store: one rank's line to it.

A backend writes `append`, `read`, `create`, `write`, `remove` and `close`. The three methods that
wait (`arrive`, `wait`, `withdraw`) then work by polling; a store that can block, or count,
overrides them to release a round in one round trip.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Sequence

from barrier_core.agreement.keys import Series
from barrier_core.agreement.round_log import passed
from barrier_core.agreement.wakeup import WakeUp

BRIEF_SECS = 0.25
"""How long `StoreClient.wait_briefly` waits."""
_FIRST_POLL_SECS = 0.001
_LAST_POLL_SECS = 0.1


class StoreLostError(ConnectionError):
    """The store did not answer, or hung up. The engine turns it into a verdict."""


class StoreClient(abc.ABC):
    """One rank's connection to the store; used by one thread at a time, but for `wake`.

    Keys and values are short text and bytes. Operations on one line take effect in the order they
    were called. Any of them raises `StoreLostError` when the store does not answer within its
    bound.
    """

    @abc.abstractmethod
    def append(self, key: str, record: bytes) -> None:
        """Add ``record`` at the end of a value, atomically; a missing key starts empty."""

    @abc.abstractmethod
    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of ``keys``, in their order; None where a key is missing."""

    @abc.abstractmethod
    def create(self, key: str, value: bytes) -> bytes:
        """Set ``key`` if it is missing, atomically; return the value that now stands."""

    @abc.abstractmethod
    def write(self, key: str, value: bytes) -> None:
        """Set ``key``, whatever it was."""

    @abc.abstractmethod
    def remove(self, keys: Iterable[str]) -> None:
        """Remove ``keys``; missing ones are no error."""

    @abc.abstractmethod
    def close(self) -> None:
        """Hang up. Never raises."""

    def address(self) -> str | None:
        """Return this host's address as other ranks reach it; None where that is not known."""
        return None

    def arrive(self, series: Series, number: int) -> None:
        """Append the rank's record to a round's log, then count it in at the bell; do not wait.

        The bell rings when ``series.world_size`` ranks have been counted in since it was last
        removed. `Series.keys` tells the keys of both.
        """
        log = series.keys(number).log
        self._waits_for = (log, series.world_size)
        self.append(log, series.record)

    def wait(self, timeout_secs: float) -> bool:
        """Wait for the bell of the last `arrive`: True when it has rung.

        False after ``timeout_secs`` or a `wake`; the rank is still counted in.
        """
        log, world_size = self._waits_for
        deadline = time.monotonic() + timeout_secs
        pause = _FIRST_POLL_SECS
        while True:
            if passed(self.read([log])[0] or b"", world_size):
                return True
            left = deadline - time.monotonic()
            if self._woken.wait(min(pause, max(left, 0))) or left <= 0:
                return False
            pause = min(pause * 2, _LAST_POLL_SECS)

    def wait_briefly(self) -> bool:
        """Wait as `wait` does, for `BRIEF_SECS`: how every round begins, and where most end.

        It need not notice a `wake`, which then ends the next wait.
        """
        return self.wait(BRIEF_SECS)

    def withdraw(self) -> bool:
        """Stop waiting. True when the bell had rung.

        When it returns, the store has processed the `arrive` of this line: nothing of it can take
        effect later. The protocol's safety rests on that.
        """
        return False

    def wake(self) -> None:
        """Make a `wait` under way, or else the next one, return. Any thread may call it."""
        self._woken.call()

    def __init__(self) -> None:
        self._woken = WakeUp()
        self._waits_for = ("", 0)


Connect = Callable[[], StoreClient]
"""Opens a line. Raises `StoreLostError` when the store cannot be reached."""
