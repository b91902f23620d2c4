"""What a backend may declare that it can do."""

from __future__ import annotations

import enum


class Capability(enum.Flag):
    """What a backend can do beyond letting no rank pass early.

    What a backend declares, the conformance kit tests. What it does not declare, a caller gets a
    `BarrierUsageError` for, never a silent no-op.
    """

    NONE = 0
    TIMEOUT = enum.auto()
    """``timeout_secs`` is honoured."""
    NAMES = enum.auto()
    """A failed round names the missing ranks on every rank."""
    ONE_VERDICT = enum.auto()
    """A round passes for all ranks or for none, and every rank raises the same verdict."""
    ABORT = enum.auto()
    """``abort`` and leaving ``phase`` by an exception reach every rank."""
    TAGS = enum.auto()
    """Ranks that come with different tags are told so instead of passing each other."""
    PROGRESS = enum.auto()
    """``report_progress`` reaches the ranks that wait."""
    LIVENESS = enum.auto()
    """A rank that dies, or closes its barrier, breaks the round at once, and is reported so."""
    GENERATIONS = enum.auto()
    """A restarted job never sees the state of the one before; conflicting ranks are refused."""
    BOUNDED_STATE = enum.auto()
    """The store holds a bounded number of keys however many rounds have run."""

    @property
    def names(self) -> list[str]:
        """The declared capabilities in lower case, in the order of this class."""
        # Python 3.10 counts NONE among the members, and everything contains it.
        return [str(flag.name).lower() for flag in type(self) if flag and flag in self]
