"""The words for what went wrong: the verdict on a round, and the state of a missing rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

RankState = Literal["dead", "alive", "unknown"]
VerdictKind = Literal["timeout", "abort", "dead", "mismatch", "conflict", "store"]

_SPELLED_OUT = 10  # ranks named one by one in a message; the rest is given as ranges


@dataclass(frozen=True)
class RankStatus:
    """What is known of a rank that has not arrived."""

    rank: int
    state: RankState = "unknown"
    host: str | None = None
    """None when the rank has never joined."""
    pid: int | None = None
    progress: str | None = None
    """What the rank last said of itself with ``report_progress``."""
    progress_age_secs: float | None = None
    detail: str | None = None
    """Why the state is what it is, such as ``no heartbeat for 12 s``."""

    def __str__(self) -> str:
        if self.host is None:
            return f"rank {self.rank} ({self.detail or 'has not joined'})"
        text = f"rank {self.rank} ({self.host}, pid {self.pid}) {self.state}"
        if self.detail:
            text += f": {self.detail}"
        if self.progress is not None:
            text += f', last progress "{self.progress}" {self.progress_age_secs or 0:.0f} s ago'
        return text


def format_ranks(ranks: Iterable[int]) -> str:
    """Write ranks as compressed ranges: ``3, 17-31``."""
    ranges: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if ranges and rank == ranges[-1][-1] + 1:
            ranges[-1][1:] = [rank]
        else:
            ranges.append([rank])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


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
