"""Where a barrier keeps its state in the store, and what a round's keys have in common."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import msgspec

from barrier_core.agreement.round_log import arrival_record

HOSTED_FOR = "barrier/hosted-for"
"""The key of the id of the job whose rank 0 hosts the store."""
ROUND_DIGITS = 12
"""Digits of a round's number in its keys, which are thus of one length.

Enough for 3,000 years at ten rounds a second.
"""
_GENERATION = re.compile(r"[A-Za-z0-9_.~%-]*\.[0-9]{1,18}")


class RoundKeys(msgspec.Struct, frozen=True):
    """The keys of one round, for a rank with one tag."""

    log: str
    """Where arrivals and breaks are appended."""
    release: str
    """The counter that releases the round when it has reached the world size."""


class Series(msgspec.Struct, frozen=True):
    """The rounds that a rank comes to with one tag: what it sends differs only in their number."""

    tag: str
    before: str
    """What a round's keys begin with, up to its number."""
    after: str
    """What follows the number in the key of its release signal."""
    record: bytes
    """What the rank appends to a round's log."""
    world_size: int

    def keys(self, number: int) -> RoundKeys:
        """Return the keys of a round."""
        log = f"{self.before}{number:0{ROUND_DIGITS}d}"
        return RoundKeys(log, log + self.after)


def generation_names(listed: bytes | None) -> list[str]:
    """Return the names of generations in a list of them, in their order, each once.

    What is no name of one is a stranger's, and is left out.
    """
    names = (listed or b"").decode(errors="replace").split()
    return [name for name in dict.fromkeys(names) if _GENERATION.fullmatch(name)]


class Keys:
    """Where one generation of one barrier of one job keeps its state.

    Job, prefix and generation are quoted, so that no two different ones can make the same key:
    ``ckpt`` round 11 and ``ckpt1`` round 1 are different keys.

    Args:
        prefix: The barrier's name.
        generation: The job's generation, and which barrier in it.
        job_id: Tells the job from others; empty where nothing does.
        secret_name: What stands in the keys instead of the job's id, where the job has a secret.
    """

    def __init__(
        self, prefix: str, generation: str, job_id: str = "", secret_name: str = ""
    ) -> None:
        self.job_id = job_id
        self._secret_name = secret_name
        self.prefix_name = prefix
        self.generation_name = quote(generation, safe="")
        job = secret_name or quote(job_id, safe="")
        barrier = f"barrier/{job}/{quote(prefix, safe='')}"
        self.generations = f"{barrier}/generations"
        """The list of the generations that may have left something; see `cleanup`."""
        self.base = f"{barrier}/{self.generation_name}"
        self.job = f"{self.base}/job"
        self.verdict = f"{self.base}/verdict"
        self.alarm = f"{self.base}/alarm"
        self.passed = f"{self.base}/passed"
        self.left = f"{self.base}/left"
        self.replacing = f"{self.base}/replacing"
        """What a process holds while it takes the rank of one that is gone."""
        self.cleaned_up = f"{self.base}/cleaned-up"
        """Number of the last round whose keys have been removed."""

    def of_generation(self, name: str) -> Keys:
        """Return those of another generation of the barrier, by its ``generation_name``."""
        return Keys(self.prefix_name, unquote(name), self.job_id, self._secret_name)

    @property
    def incarnation(self) -> int:
        """Which barrier of this prefix in the job's generation it is, from 0 (see `Slot`)."""
        return int(self.generation_name.rpartition(".")[2])

    def is_after(self, other: Keys) -> bool:
        """Whether both are of one generation of the job, and this is the later barrier."""
        return self.is_of_same_job(other) and self.incarnation > other.incarnation

    def is_of_same_job(self, other: Keys) -> bool:
        """Whether both are of one generation of the job."""
        return len({keys.generation_name.rpartition(".")[0] for keys in (self, other)}) == 1

    def series(self, rank: int, world_size: int, tag: str) -> Series:
        """Return what a rank needs for its rounds with one tag."""
        # A tag often changes with every round. In hex, since nobody reads the key of a release
        # signal: to quote it would cost as much as all else that a round does in Python.
        return Series(
            tag, f"{self.base}/", f"/{tag.encode().hex()}", arrival_record(rank, tag), world_size
        )

    def round(self, number: int, tag: str) -> RoundKeys:
        """Return the keys of a round, for a rank with this tag."""
        return self.series(0, 1, tag).keys(number)

    def member(self, rank: int) -> str:
        """Return the key of a rank's membership record."""
        return f"{self.base}/member/{rank}"

    def heartbeat(self, rank: int) -> str:
        """Return the key of a rank's heartbeat."""
        return f"{self.base}/heartbeat/{rank}"

    def needed_by(self, rank: int) -> list[str]:
        """Return the keys that a rank needs from its joining to its leaving, whatever its round."""
        of_all = [self.job, self.generations, self.verdict, self.alarm, self.passed, self.left]
        of_all += [self.replacing, self.cleaned_up, self.gathered(0), self.gathered(1)]
        return [*of_all, self.member(rank), self.heartbeat(rank)]

    def gathered(self, number: int) -> str:
        """Return the key of what is gathered in a round: rank 0 empties it before it is needed."""
        return f"{self.base}/gathered/{number % 2}"
