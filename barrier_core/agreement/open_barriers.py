"""The open barriers of this process: numbered one after another, and closed at exit."""

from __future__ import annotations

import atexit
import os
import threading
from collections import Counter
from contextlib import suppress
from typing import ClassVar

from barrier_core.contract import Barrier
from barrier_core.errors import RankConflictError

SlotKey = tuple[str, str, str, int]
"""Store, prefix, generation and rank."""


class Slot:
    """A rank's place in one barrier of this process.

    Every rank makes its barriers of one prefix in the same order, so their numbers agree, and a
    barrier never sees the keys of the one before it. An open barrier is kept alive by its seat: one
    that hosts the store must not vanish because nobody holds a reference.
    """

    _taken: ClassVar[dict[SlotKey, Slot]] = {}
    _numbers: ClassVar[Counter[SlotKey]] = Counter()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, barrier: Barrier, key: SlotKey, number: int) -> None:
        self._barrier = barrier
        self._key = key
        self.number = number

    @classmethod
    def take(cls, barrier: Barrier, key: SlotKey) -> Slot:
        """Return the seat for a new barrier. A broken one that sits there is closed.

        Raises:
            RankConflictError: This process has an open barrier there.
        """
        with cls._lock:
            taken = cls._taken.get(key)
        if taken is not None:
            if taken._barrier.failed is None:
                _, prefix, _, rank = key
                raise RankConflictError(
                    f"rank {rank} of this process already has an open barrier with the prefix "
                    f"{prefix!r}: close() it first, or give this one another barrier_prefix"
                )
            taken._barrier.close()
        with cls._lock:
            seat = cls._taken[key] = cls(barrier, key, cls._numbers[key])
            cls._numbers[key] += 1
            return seat

    def move_to(self, number: int) -> None:
        """Take a later number: rank 0 has made barriers that this rank has missed."""
        with self._lock:
            self.number = number
            self._numbers[self._key] = number + 1

    def give_back(self, used: bool = False) -> None:
        """Free the seat; one that was never used gives its number back, too."""
        with self._lock:
            if self._taken.get(self._key) is self:
                del self._taken[self._key]
                if not used:
                    self._numbers[self._key] -= 1

    @classmethod
    def close_all(cls) -> None:
        """Leave at exit, as `close` would: the others hear of it, and the host leaves last."""
        for seat in list(cls._taken.values()):
            with suppress(Exception):
                seat._barrier.close()

    @classmethod
    def forget_all(cls) -> None:
        """Start afresh in a forked child, which is another rank."""
        cls._lock = threading.Lock()
        cls._taken.clear()
        cls._numbers.clear()


atexit.register(Slot.close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=Slot.forget_all)
