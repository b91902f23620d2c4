"""Who is in the job: the record of each rank, entering it, and noting that a rank has left."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from barrier_core.agreement.foreign import decoder
from barrier_core.agreement.keys import HOSTED_FOR, Keys, generation_names
from barrier_core.agreement.liveness import LivenessPort, is_running, machine_id, start_time
from barrier_core.agreement.round_log import Break
from barrier_core.agreement.store import StoreClient
from barrier_core.errors import BarrierSetupError, RankConflictError
from barrier_core.launcher import JOB_ID_VARIABLE, LARGEST_WORLD_SIZE, RankInfo

PROTOCOL_VERSION = 2

_FIRST_POLL_SECS = 0.01
_LAST_POLL_SECS = 0.25
_LONGEST_NUMBER = 18  # digits
_LONGEST_SHOWN = 500  # bytes of a job's id
_CLAIM_SECS = 2.0
"""How long, in seconds, to wait for others that take over ranks: each needs three answers."""


class JobDescription(msgspec.Struct, frozen=True):
    """What all ranks of a generation must agree on."""

    protocol: int
    world_size: Annotated[int, Meta(ge=1, le=LARGEST_WORLD_SIZE)]
    incarnation: str
    """Random, of the first to join: a store that has forgotten it has forgotten everything."""


class Member(msgspec.Struct, frozen=True):
    """A rank's record: which process it is, and how to look after it."""

    rank: Annotated[int, Meta(ge=0)]
    host: str
    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    started: int
    machine: str
    liveness_port: tuple[str, Annotated[int, Meta(ge=1, lt=2**16)]] | None
    """Address and port that are open while the process lives, where it has one."""
    token: str = ""
    """What the process says to whoever connects there; see `links`."""
    entered: bool = False
    """Whether it has been about to arrive in its first round; see `enter`."""

    def is_same_process(self, other: Member) -> bool:
        """Whether both records are of one process."""
        return (self.machine, self.pid, self.started) == (other.machine, other.pid, other.started)

    @classmethod
    def myself(cls, rank_info: RankInfo, liveness_port: LivenessPort | None) -> Member:
        """Return the record of this process."""
        pid = os.getpid()
        return cls(
            rank=rank_info.global_rank,
            host=rank_info.host,
            pid=pid,
            started=start_time(pid),
            machine=machine_id(),
            liveness_port=liveness_port.endpoint if liveness_port else None,
            token=liveness_port.token if liveness_port else "",
        )


decode_job_description = decoder(JobDescription, "the job's record")
decode_member = decoder(Member, "a rank's record")


def wait_for_host(
    client: StoreClient, keys: Keys, deadline: float, still_waiting: Callable[[str], None]
) -> tuple[Keys, Member]:
    """Return once rank 0 is a member, where it hosts the store; for the ranks that it serves.

    A server that answers need not be the one to stay in: the barrier before, or the job before,
    may have had its own at the same address, where its rank 0 still waits for others to leave.
    Why this is safe: rank 0 enters only the server that it hosts for this barrier, waits for nobody
    before that, and ends it only after all its members have left. So whoever finds rank 0 here
    may stay; whoever does not looks again, or loses its connection and connects anew.

    Args:
        client: Connected to the server that answers at the address.
        keys: Of this barrier as this process counts it.
        deadline: When to give up, in monotonic seconds.
        still_waiting: Is told what it waits for.

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
        host, known, hosted_for = client.read([keys.member(0), keys.generations, HOSTED_FOR])
        if host is not None:
            return keys, decode_member(host)
        names = generation_names(known)
        later = [each for each in map(keys.of_generation, names) if each.is_after(keys)]
        if later:
            keys = max(later, key=lambda each: each.incarnation)
            continue
        still_waiting(
            f"a store answers, but rank 0 has not come to the barrier {keys.prefix_name!r} of "
            f"generation {keys.generation_name}"
        )
        if time.monotonic() + pause >= deadline:
            there = f"; the last that it made there is {names[-1]}" if names else ""
            if hosted_for is not None and hosted_for != keys.job_id.encode():
                other = hosted_for[:_LONGEST_SHOWN].decode(errors="replace")
                there += f"; the store is that of {_job(other)}, and this rank is of "
                there += _job(keys.job_id)
            raise BarrierSetupError(
                f"a store answers, but rank 0 has not come to the barrier {keys.prefix_name!r} of "
                f"generation {keys.generation_name}{there}. Start all ranks, with the same "
                "barrier_prefix, generation and job_id"
            )
        time.sleep(pause)
        pause = min(pause * 2, _LAST_POLL_SECS)


def _job(job_id: str) -> str:
    return f"the job {job_id!r}" if job_id else "a job without an id"


def join(client: StoreClient, keys: Keys, me: Member, world_size: int) -> tuple[bytes, bool]:
    """Become a member.

    Returns:
        The job's record, which stays what it is while the store lives, and whether this rank is the
        first to join.

    Raises:
        RankConflictError: Another process has this rank, now or before in this generation, or the
            ranks disagree about world size or protocol version. The others are told as well.
    """
    mine = JobDescription(PROTOCOL_VERSION, world_size, uuid.uuid4().hex)
    record = client.create(keys.job, msgspec.json.encode(mine))
    job = decode_job_description(record)
    if job.protocol != mine.protocol:
        conflict = (
            f"it speaks protocol version {mine.protocol}, the ranks before it version "
            f"{job.protocol}; install one version of barrier-core on all hosts"
        )
    elif job.world_size != mine.world_size:
        conflict = (
            f"it was told a world size of {mine.world_size}, the ranks before it "
            f"{job.world_size}; start all ranks with the same world size"
        )
    else:
        standing = client.create(keys.member(me.rank), msgspec.json.encode(me))
        other = decode_member(standing)
        # The same process tries again after a set-up that failed half-way. (A second barrier of
        # the same process has been refused before it came here.)
        if other.is_same_process(me):
            client.write(keys.member(me.rank), msgspec.json.encode(me))
            return record, job == mine
        if _is_gone(other, me):
            if _take_over(client, keys, me, other):
                return record, False
            conflict = (
                f"the rank was pid {other.pid} on {other.host} before and came back alone; "
                "restart all ranks, in a new generation"
            )
        else:
            conflict = (
                f"the rank is taken by pid {other.pid} on {other.host}; start each rank once, or, "
                "if that process is gone, restart all ranks in a new generation"
            )
    if not keys.job_id:
        conflict += f"; if these are two jobs, give each a job_id, or {JOB_ID_VARIABLE}"
    reason = f"rank {me.rank} (pid {me.pid} on {me.host}) may not join: {conflict}"
    client.create(keys.alarm, msgspec.json.encode(Break("conflict", me.rank, reason)))
    if client.read([keys.job]) == [None]:  # it has just been removed, which will not be done again
        client.remove([keys.alarm])
    raise RankConflictError(reason)


def _is_gone(other: Member, me: Member) -> bool:
    """Whether this machine's kernel says that the process of another record is gone."""
    return other.machine == me.machine and not is_running(other.pid, other.started)


def _take_over(client: StoreClient, keys: Keys, me: Member, other: Member) -> bool:
    """Take the rank of a process that is gone, unless it may have been in a round. True if taken.

    Why this is safe: a process is answered that its record says ``entered`` before it arrives for
    the first time (`enter`). The record is read after the process was found to be gone. If it does
    not say so then, no arrival was ever sent that could be counted beside the new one. Of several
    processes that want the rank, only the one that holds the key ``replacing`` looks and writes. If
    that one dies while it holds it, nobody takes over a rank in this generation any more.

    In a later barrier of its generation, the new process has missed those before: it would come to
    its first one while the others are in that one. So only the first can be joined in this way.
    """
    if keys.incarnation > 0:
        return False
    claim = msgspec.json.encode(me)
    deadline = time.monotonic() + _CLAIM_SECS
    while client.create(keys.replacing, claim) != claim:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_FIRST_POLL_SECS)
    (record,) = client.read([keys.member(me.rank)])
    is_free = record is not None and decode_member(record) == other and not other.entered
    if is_free:
        client.write(keys.member(me.rank), claim)
    client.remove([keys.replacing])
    return is_free


def enter(client: StoreClient, keys: Keys, me: Member, answer_secs: float) -> None:
    """Have the store know that a rank is about to arrive in its first round; see `_take_over`.

    Args:
        client: The connection on which it arrives.
        keys: The barrier's keys.
        me: The rank's record.
        answer_secs: How long, in seconds, the store may take to answer.

    Raises:
        StoreLostError: The store was lost, or has forgotten the barrier.
    """
    if keys.incarnation > 0:
        return  # nobody may take over a rank there
    usual, client.answer_secs = client.answer_secs, answer_secs
    client.write(
        keys.member(me.rank), msgspec.json.encode(msgspec.structs.replace(me, entered=True))
    )
    client.check_incarnation()  # once this is answered, the store has the record
    client.answer_secs = usual


def note_left(client: StoreClient, keys: Keys, rank: int) -> set[int]:
    """Note that a rank has left for good; return all ranks that have."""
    client.append(keys.left, b"%d\n" % rank)
    return read_left(client, keys)


def read_left(client: StoreClient, keys: Keys) -> set[int]:
    """Return the ranks that have left."""
    words = (client.read([keys.left])[0] or b"").split()
    return {int(word) for word in words if word.isdigit() and len(word) < _LONGEST_NUMBER}
