"""Who is in the job: joining, leaving, and what can be said of a rank that has not arrived."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from urllib.parse import unquote

import msgspec

from barrier_core.agreement.keys import Keys
from barrier_core.agreement.liveness import (
    Answer,
    LivenessPort,
    is_running,
    is_stopped,
    knock,
    machine_id,
    start_time,
)
from barrier_core.agreement.round_log import Break
from barrier_core.agreement.store import StoreClient
from barrier_core.errors import BarrierSetupError, RankConflictError
from barrier_core.launcher import RankInfo
from barrier_core.verdict import RankState, RankStatus

PROTOCOL_VERSION = 1

_KNOCK_SECS = 0.3
_FIRST_POLL_SECS = 0.01
_LAST_POLL_SECS = 0.25


class JobDescription(msgspec.Struct, frozen=True):
    """What all ranks of a generation must agree on."""

    protocol: int
    world_size: int


class Member(msgspec.Struct, frozen=True):
    """A rank's entry in the roster: which process it is, and how to look after it."""

    rank: int
    host: str
    pid: int
    started: int
    machine: str
    beacon: tuple[str, int] | None
    """Address and port of the rank's beacon, where it has one."""

    def is_same_process(self, other: Member) -> bool:
        """Whether both entries are of one process."""
        return (self.machine, self.pid, self.started) == (other.machine, other.pid, other.started)

    @classmethod
    def myself(cls, rank_info: RankInfo, beacon: LivenessPort | None) -> Member:
        """Return the entry of this process."""
        pid = os.getpid()
        return cls(
            rank=rank_info.global_rank,
            host=rank_info.host,
            pid=pid,
            started=start_time(pid),
            machine=machine_id(),
            beacon=beacon.place if beacon else None,
        )


class Heartbeat(msgspec.Struct, frozen=True):
    """A heartbeat."""

    count: int
    progress: str | None
    progress_age_secs: float | None
    """Age of the progress when the heartbeat was sent: hosts' clocks are never compared."""


# Made once, at import; see `log.decode_break`.
decode_job_description = msgspec.json.Decoder(JobDescription).decode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_pulse = msgspec.json.Decoder(Heartbeat).decode


def wait_for_host(line: StoreClient, keys: Keys, deadline: float) -> Keys:
    """Return once rank 0 is in the roster, where it hosts the store; for the ranks that it serves.

    A server that answers need not be the one to stay in: the barrier before, or the job before,
    may have had its own at the same address, where its rank 0 still waits for others to leave.
    Why this is safe: rank 0 enters only the server that it hosts for this barrier, waits for nobody
    before that, and ends it only after all in this roster have left. So whoever finds rank 0 here
    may stay; whoever does not looks again, or is hung up on and connects anew.

    Args:
        line: Goes to the server that answers at the address.
        keys: Of this barrier as this process counts it.
        deadline: When to give up, in monotonic seconds.

    Returns:
        The keys to go on with. Later ones than ``keys`` if rank 0 has closed that barrier, without
        this rank, and made the next: a rank that missed it comes to the one that there is, and one
        that came back alone is refused there.

    Raises:
        BarrierSetupError: Rank 0 has not come before the deadline.
        StoreLostError: The server has ended, or does not answer.
    """
    pause = _FIRST_POLL_SECS
    while True:
        host, known = line.read([keys.member(0), keys.generations])
        if host is not None:
            return keys
        names = (known or b"").decode().split()
        last = Keys(keys.prefix_name, unquote(names[-1])) if names else keys
        if last.is_after(keys):
            keys = last
            continue
        if time.monotonic() + pause >= deadline:
            there = f"; the last that it made there is {names[-1]}" if names else ""
            raise BarrierSetupError(
                f"a store answers, but rank 0 has not come to the barrier {keys.prefix_name!r} of "
                f"generation {keys.generation_name}{there}. Start all ranks, with the same "
                "barrier_prefix and generation"
            )
        time.sleep(pause)
        pause = min(pause * 2, _LAST_POLL_SECS)


def join(line: StoreClient, keys: Keys, me: Member, world_size: int) -> None:
    """Enter the roster.

    Raises:
        RankConflictError: Another process has this rank, now or before in this generation, or the
            ranks disagree about world size or protocol version. The others are told as well.
    """
    mine = JobDescription(PROTOCOL_VERSION, world_size)
    shape = decode_job_description(line.create(keys.shape, msgspec.json.encode(mine)))
    if shape.protocol != mine.protocol:
        conflict = (
            f"it speaks protocol version {mine.protocol}, the ranks before it version "
            f"{shape.protocol}; install one version of barrier-core on all hosts"
        )
    elif shape.world_size != mine.world_size:
        conflict = (
            f"it was told a world size of {mine.world_size}, the ranks before it "
            f"{shape.world_size}; start all ranks with the same world size"
        )
    else:
        standing = line.create(keys.member(me.rank), msgspec.json.encode(me))
        other = _decode_member(standing)
        # The same process tries again after a set-up that failed half-way. (A second barrier of
        # the same process has been refused before it came here.)
        if other.is_same_process(me):
            line.write(keys.member(me.rank), msgspec.json.encode(me))
            return
        if other.machine == me.machine and not is_running(other.pid, other.started):
            conflict = (
                f"the rank was pid {other.pid} on {other.host} before and came back alone; "
                "restart all ranks, in a new generation"
            )
        else:
            conflict = f"the rank is taken by pid {other.pid} on {other.host}; start each rank once"
    reason = f"rank {me.rank} (pid {me.pid} on {me.host}) may not join: {conflict}"
    line.create(keys.alarm, msgspec.json.encode(Break("conflict", me.rank, reason)))
    raise RankConflictError(reason)


def leave(line: StoreClient, keys: Keys, rank: int) -> set[int]:
    """Sign off for good; return all ranks that have."""
    line.append(keys.left, b"%d\n" % rank)
    return read_left(line, keys)


def read_left(line: StoreClient, keys: Keys) -> set[int]:
    """Return the ranks that have signed off."""
    return {int(rank) for rank in (line.read([keys.left])[0] or b"").split()}


class FailureDetector:
    """Says of missing ranks where they run, what they last did, and whether they are dead.

    Keeps what it has seen, since silence can only be told from two looks. Used by the waiting
    thread and the watcher, one at a time.
    """

    def __init__(self, keys: Keys, me: Member, heartbeat_secs: float) -> None:
        self._keys = keys
        self._me = me
        self._heartbeat_secs = heartbeat_secs
        self._members: dict[int, Member] = {}
        self._pulses: dict[int, tuple[Heartbeat, float, bool]] = {}
        """By rank: the last pulse, when it was first seen, and whether it came while we looked."""
        self._lock = threading.Lock()

    def examine(self, line: StoreClient, ranks: Iterable[int]) -> tuple[RankStatus, ...]:
        """Return the status of each of ``ranks``, in order."""
        # Nothing but a call in here: Python 3.12 and 3.13 leave the jump back of a loop out of what
        # `with` protects, and a signal handler that raises there would leave the lock taken.
        with self._lock:
            return self._examine(line, sorted(ranks))

    def _examine(self, line: StoreClient, ranks: list[int]) -> tuple[RankStatus, ...]:
        self._read(line, ranks)
        left = read_left(line, self._keys)
        silent = [
            rank
            for rank in ranks
            if rank not in left and self._is_remote(rank) and self._silence(rank) is not None
        ]
        beacons = [self._members[rank].beacon for rank in silent]
        asked = [rank for rank, beacon in zip(silent, beacons, strict=True) if beacon]
        answers = dict(
            zip(asked, knock([beacon for beacon in beacons if beacon], _KNOCK_SECS), strict=True)
        )
        return tuple(self._status(rank, rank in left, answers.get(rank)) for rank in ranks)

    def _read(self, line: StoreClient, ranks: list[int]) -> None:
        new = [rank for rank in ranks if rank not in self._members]
        for rank, value in zip(new, line.read([self._keys.member(r) for r in new]), strict=True):
            if value is not None:
                self._members[rank] = _decode_member(value)
        now = time.monotonic()
        values = line.read([self._keys.pulse(rank) for rank in ranks])
        for rank, value in zip(ranks, values, strict=True):
            if value is None:
                continue
            pulse = _decode_pulse(value)
            seen = self._pulses.get(rank)
            if seen is None or seen[0].count != pulse.count:
                self._pulses[rank] = (pulse, now, seen is not None)

    def _is_remote(self, rank: int) -> bool:
        member = self._members.get(rank)
        return member is not None and member.machine != self._me.machine

    def _silence(self, rank: int) -> float | None:
        """Return for how long a rank has missed its heartbeats, in seconds; None if it has not."""
        if not self._heartbeat_secs or rank not in self._pulses:
            return None
        silence = time.monotonic() - self._pulses[rank][1]
        return silence if silence >= 2 * self._heartbeat_secs else None

    def _status(self, rank: int, has_left: bool, answer: Answer | None) -> RankStatus:
        member = self._members.get(rank)
        if member is None:
            return RankStatus(rank, detail="has not joined")
        pulse, seen_at, fresh = self._pulses.get(rank, (None, 0.0, False))
        silence = self._silence(rank)
        state, detail = self._judge(member, has_left, silence, fresh, answer)
        progress_age = None
        if pulse is not None and pulse.progress_age_secs is not None:
            progress_age = pulse.progress_age_secs + time.monotonic() - seen_at
        return RankStatus(
            rank=rank,
            state=state,
            host=member.host,
            pid=member.pid,
            progress=pulse.progress if pulse else None,
            progress_age_secs=progress_age,
            detail=detail,
        )

    def _judge(
        self,
        member: Member,
        has_left: bool,
        silence: float | None,
        fresh: bool,
        answer: Answer | None,
    ) -> tuple[RankState, str | None]:
        if has_left:
            return "dead", "has closed its barrier"
        if member.machine == self._me.machine:
            if not is_running(member.pid, member.started):
                return "dead", "its process is gone"
            return "alive", "stopped by a signal" if is_stopped(member.pid) else None
        if silence is None:
            return ("alive" if fresh else "unknown"), None
        quiet = f"no heartbeat for {silence:.0f} s"
        if answer == "refuses":
            return "dead", f"its process is gone, {quiet}"
        if answer == "accepts":
            return "alive", f"{quiet}: stopped or stuck"
        return "unknown", f"{quiet}, its host does not answer"
