"""The words for what went wrong: the verdict on a round, and the state of a missing rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

RankState = Literal["dead", "left", "alive", "unknown"]
VerdictKind = Literal["timeout", "abort", "dead", "left", "mismatch", "conflict", "store"]

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
        text = f"rank {self.rank} ({self.host}, pid {self.pid}), {self.state}"
        if self.detail:
            text += f", {self.detail}"
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
    process is gone. ``left``: a missing rank has closed its barrier. ``mismatch``: ranks came with
    different tags. ``conflict``: a process that does not belong here tried to join. ``store``: the
    store cannot be reached, so whether the others passed is not known.
    """

    kind: VerdictKind
    round: int
    tag: str = ""
    rank: int | None = None
    """The rank whose word decided the round; None when the store was lost."""
    reason: str = ""
    """The timeout as ``after 600 s``, what an abort said, who has found a rank dead, and so on."""
    world_size: int = 0
    missing: tuple[RankStatus, ...] = ()
    """Every rank that had not arrived when the round was decided."""
    tags: dict[str, str] | None = None
    """Which ranks (as ranges) came with which tag, where tags differ."""

    def __str__(self) -> str:
        text = f"{describe_round(self.round, self.tag)} {self._outcome()}"
        if self.tags:
            text += ": " + ", ".join(
                f"{tag!r} on {_ranks(ranks)}" if tag else f"no tag on {_ranks(ranks)}"
                for tag, ranks in self.tags.items()
            )
        if self.missing:
            text += (": " if self.kind in ("timeout", "dead", "left") else "; ") + self._absent()
        return f"{text}. {_REMEDIES[self.kind]}"

    def _outcome(self) -> str:
        """Say how the round ended, without its name."""
        if self.kind == "timeout":
            return f"timed out {self.reason}"
        if self.kind == "abort":
            return f"was aborted by rank {self.rank}: {self.reason}"
        if self.kind in ("dead", "left"):
            return "is broken"  # who is dead or has left is among the missing
        if self.kind == "mismatch":
            return "is broken, as its ranks came with different tags"
        if self.kind == "conflict":
            return f"is broken: {self.reason}"
        return f"is lost: {self.reason}"

    def _absent(self) -> str:
        verb = "did not arrive" if self.kind == "timeout" else "had not arrived"
        return _count_and_name(self.missing, self.world_size, verb)


_REMEDIES: dict[VerdictKind, str] = {
    "timeout": "Look at the missing ranks first; a job that may be slower needs more timeout_secs",
    "abort": "Mend what that rank reports, then restart all ranks",
    "dead": "Find out on its host why it ended, then restart all ranks",
    "left": "Have every rank go through the same rounds before it closes the barrier, then restart "
    "all ranks",
    "mismatch": "Bring all ranks to the same call, with the same tag",
    "conflict": "Start each rank once, with the settings of the job, then restart all ranks",
    "store": "Whether other ranks have passed is not known: restart from the last checkpoint",
}


def describe_round(round_number: int, tag: str) -> str:
    """Name a round the way every message names it: ``round 118 'save step=1200'``."""
    return f"round {round_number}" + (f" {tag!r}" if tag else "")


def describe_missing(missing: tuple[RankStatus, ...], world_size: int) -> str:
    """Say who a round waits for: ``waits for 1 of 4 ranks: rank 3 (gpu-38, pid 4121), alive``."""
    return "waits for " + _count_and_name(missing, world_size)


def _count_and_name(missing: tuple[RankStatus, ...], world_size: int, verb: str = "") -> str:
    text = f"{len(missing)} of {world_size} ranks"
    if verb:
        text += f" {verb}"
    if len(missing) > _SPELLED_OUT:
        text += f" ({format_ranks(status.rank for status in missing)})"
    text += ": " + "; ".join(map(str, missing[:_SPELLED_OUT]))
    if len(missing) > _SPELLED_OUT:
        text += f"; and {len(missing) - _SPELLED_OUT} more"
    return text


def _ranks(ranges: str) -> str:
    return f"rank {ranges}" if ranges.isdigit() else f"ranks {ranges}"
