"""Why a rank must not wait any longer in a round."""

from __future__ import annotations

from typing import NamedTuple

from barrier_core.agreement.round_log import Break
from barrier_core.verdict import Verdict


class RoundPassed(NamedTuple):
    """Another rank has found out that this round has passed."""

    round: int


class StoreLost(NamedTuple):
    """The store was lost outside a round, or has forgotten the barrier."""

    why: str


Reason = Break | Verdict | RoundPassed | StoreLost
"""Why a rank must not wait any longer: what it wants, what others have decided, what is gone."""


class Posted(NamedTuple):
    """A reason in a rank's mailbox."""

    reason: Reason
    round: int | None = None
    """The round that it is about; None: the one that the rank is in, or comes to next."""
