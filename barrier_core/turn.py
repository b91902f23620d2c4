"""The right to be in a round of a barrier, which a forked child never has."""

from __future__ import annotations

import os

from barrier_core.errors import BarrierUsageError
from barrier_core.this_process import after_fork


class Turn(list[None]):
    """The right to be in a round: ``del turn[0]`` takes it, ``append`` gives it back.

    Why this is safe: both are atomic, and only who has it ends a round, so a second thread can
    neither arrive twice nor skip a round. Why it is no lock: Python runs signal handlers when a
    call returns, and one that raises as `acquire` does would leave the lock taken for ever.

    In a forked child it is gone for good, for all copies of the barrier: a child never acts for
    its parent. That costs a round nothing, as there is nothing to ask: who wants the turn does not
    find it.
    """

    __slots__ = ("__weakref__", "_pid")

    def __init__(self) -> None:
        super().__init__([None])
        self._pid = os.getpid()
        after_fork(self._end)

    @property
    def is_own(self) -> bool:
        """Whether the calling process made the barrier."""
        return self._pid == os.getpid()

    def require_own(self, barrier_type: str) -> None:
        """Raise unless the calling process made the barrier.

        Raises:
            BarrierUsageError: A parent of this process has made it.
        """
        if not self.is_own:
            raise BarrierUsageError(
                f"this {barrier_type} barrier belongs to the process that made it (pid "
                f"{self._pid}), and this is a forked child of it (pid {os.getpid()}): let the "
                "parent go through its barrier, or make one in the child, with a prefix of its own"
            )

    def _end(self) -> None:
        """In a forked child: nobody has the turn, and nobody gives it back."""
        self.__class__ = _NoTurn
        self.clear()


class _NoTurn(Turn):
    """What a turn becomes in a forked child."""

    __slots__ = ()

    def append(self, _: None) -> None:
        """Give back what this process does not have: a round was entered before the fork."""

    @property
    def is_own(self) -> bool:
        """No: also where the child's pid is the parent's, each in a namespace of its own."""
        return False
