"""The outcome of a round that did not pass: one for all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from barrier_core.ranks import RankStatus, format_ranks

VerdictKind = Literal["timeout", "abort", "dead", "mismatch", "conflict", "store"]

_SPELLED_OUT = 10  # ranks named one by one in a message; the rest is given as ranges


@dataclass(frozen=True)
class Verdict:
    """Why a round is broken.

    ``timeout``: a rank's hard limit passed. ``abort``: a rank gave up. ``dead``: a missing rank's
    process is gone, or it has closed its barrier. ``mismatch``: ranks came with different tags.
    ``conflict``: a process that does not belong here tried to join. ``store``: the store cannot be
    reached, so whether the others passed is not known.
    """

    kind: VerdictKind
    round: int
    tag: str = ""
    rank: int | None = None
    """The rank whose word decided the round; None when the store was lost."""
    reason: str = ""
    world_size: int = 0
    missing: tuple[RankStatus, ...] = ()
    """Every rank that had not arrived when the round was decided."""
    tags: dict[str, str] | None = None
    """Which ranks (as ranges) came with which tag, where tags differ."""

    def __str__(self) -> str:
        text = f"{describe_round(self.round, self.tag)} is broken ({self.kind}"
        text += "" if self.rank is None else f", decided by rank {self.rank}"
        text += f"): {self.reason}"
        if self.tags:
            text += "; tags: " + ", ".join(
                f"{tag!r} on {ranks}" for tag, ranks in self.tags.items()
            )
        if self.missing:
            text += "; " + describe_missing(self.missing, self.world_size)
        return text


def describe_round(round_number: int, tag: str) -> str:
    """Name a round the way every message names it: ``round 118 'save step=1200'``."""
    return f"round {round_number}" + (f" {tag!r}" if tag else "")


def describe_missing(missing: tuple[RankStatus, ...], world_size: int) -> str:
    """Say who has not arrived: ``waits for 1 of 512 ranks: rank 311 (gpu-38, pid 4121) alive``."""
    text = f"waits for {len(missing)} of {world_size} ranks"
    if len(missing) > _SPELLED_OUT:
        text += f" ({format_ranks(status.rank for status in missing)})"
    text += ": " + "; ".join(map(str, missing[:_SPELLED_OUT]))
    if len(missing) > _SPELLED_OUT:
        text += f"; and {len(missing) - _SPELLED_OUT} more"
    return text
