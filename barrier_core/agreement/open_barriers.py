"""The table of this process's open barriers: counted one after another, and closed at exit."""

from __future__ import annotations

import atexit
import threading
from collections import Counter
from contextlib import suppress
from typing import ClassVar

from barrier_core.contract import Barrier
from barrier_core.errors import RankConflictError
from barrier_core.this_process import after_fork

SlotKey = tuple[str, str, str, str, int]
"""Store, job, prefix, generation and rank."""


class Slot:
    """A rank's place in the table of open barriers.

    Every rank makes its barriers of one prefix in the same order, so their incarnations agree, and
    a barrier never sees the keys of the one before it. An open barrier is kept alive by its slot:
    one that hosts the store must not vanish because nobody holds a reference.
    """

    _taken: ClassVar[dict[SlotKey, Slot]] = {}
    _incarnations: ClassVar[Counter[SlotKey]] = Counter()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, key: SlotKey, incarnation: int) -> None:
        self._barrier: Barrier | None = None
        self._key = key
        self.incarnation = incarnation
        """Which barrier of its key this one is, from 0."""

    @classmethod
    def take(cls, key: SlotKey) -> Slot:
        """Return the slot for a new barrier. A broken one that has it is closed.

        Raises:
            RankConflictError: This process has an open barrier there, or is making one.
        """
        with cls._lock:
            taken = cls._taken.get(key)
        if taken is not None:
            holder = taken._barrier
            if holder is None or holder.failed is None:
                _, _, prefix, _, rank = key
                raise RankConflictError(
                    f"rank {rank} of this process already has an open barrier with the prefix "
                    f"{prefix!r}: close() it first, or give this one another barrier_prefix"
                )
            holder.close()
        with cls._lock:
            slot = cls._taken[key] = cls(key, cls._incarnations[key])
            cls._incarnations[key] += 1
            return slot

    def hold(self, barrier: Barrier) -> None:
        """Keep a barrier that is ready for use alive, and close it at exit."""
        self._barrier = barrier

    def move_to(self, incarnation: int) -> None:
        """Take a later incarnation: rank 0 has made barriers that this rank has missed."""
        with self._lock:
            self.incarnation = incarnation
            self._incarnations[self._key] = incarnation + 1

    def give_back(self) -> None:
        """Free the slot; one that no barrier has used gives its incarnation back, too."""
        with self._lock:
            if self._taken.get(self._key) is self:
                del self._taken[self._key]
                if self._barrier is None:
                    self._incarnations[self._key] -= 1

    @classmethod
    def close_all(cls) -> None:
        """Leave at exit, as `close` would: the others hear of it, and the host leaves last."""
        for slot in list(cls._taken.values()):
            if slot._barrier is not None:
                with suppress(Exception):
                    slot._barrier.close()

    @classmethod
    def forget_all(cls) -> None:
        """Start afresh in a forked child, which is another rank."""
        cls._lock = threading.Lock()
        cls._taken.clear()
        cls._incarnations.clear()


atexit.register(Slot.close_all)
after_fork(Slot.forget_all)
