"""What can be said of ranks that have not arrived: where they run, and whether they live."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from barrier_core.agreement.foreign import decoder
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.links import Seen
from barrier_core.agreement.liveness import LivenessPort, is_running, is_stopped
from barrier_core.agreement.membership import Member, decode_member, read_left
from barrier_core.agreement.store import StoreClient
from barrier_core.verdict import RankState, RankStatus

_ANSWER_SECS = 0.3
"""How long a look waits for hosts that it asks for the first time."""
_ASKED_AT_ONCE = 64
"""How many silent ranks are asked, at most: a report spells out fewer."""
_WATCHED = 3
"""On how many ranks of other machines a rank keeps an eye, at least, and they on it."""
_LONGEST_AGE_SECS = 1e10

Process = Literal["gone", "stopped", "runs"]
"""What the kernel of this machine says of a process of this machine."""


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life of a rank, and what it last said of itself."""

    count: int
    progress: str | None
    progress_age_secs: Annotated[float, Meta(ge=0, le=_LONGEST_AGE_SECS)] | None
    """Age of the progress when the heartbeat was sent: hosts' clocks are never compared."""


_decode_heartbeat = decoder(Heartbeat, "a heartbeat")


class FailureDetector:
    """Says of missing ranks where they run, what they last did, and whether they are dead.

    Keeps what it has seen, since silence can only be told from two looks. Used by the waiting
    thread and the watcher, one at a time.

    Args:
        keys: The barrier's keys.
        me: The record of the rank that asks.
        heartbeat_secs: Seconds between heartbeats; 0 where there are none.
        world_size: Number of ranks.
        port: This rank's liveness port, which holds the connections to those of others.
        host: The record of rank 0, where that hosts the store and is another process.
    """

    def __init__(
        self,
        keys: Keys,
        me: Member,
        heartbeat_secs: float,
        world_size: int,
        port: LivenessPort | None,
        host: Member | None,
    ) -> None:
        self._world_size = world_size
        self._port = port
        self._host = host
        self._neighbours = neighbours(me.rank, world_size)
        self._keys = keys
        self._me = me
        self._heartbeat_secs = heartbeat_secs
        self._members: dict[int, Member] = {}
        self._heartbeats: dict[int, tuple[Heartbeat, float, bool]] = {}
        """By rank: the last heartbeat, when it was first seen, and whether one came before it."""
        self._lock = threading.Lock()

    def examine(
        self, client: StoreClient, ranks: Iterable[int], asks: bool = False
    ) -> tuple[RankStatus, ...]:
        """Return the status of each of ``ranks``, in order.

        Args:
            client: A connection to the store.
            ranks: The ranks.
            asks: Whether to ask the hosts of those that are silent. Few ranks may: each has a
                connection of its own then, and a rank that is stuck takes none from its backlog.

        Raises:
            StoreLostError: The store was lost.
        """
        # Nothing but a call in here: Python 3.12 and 3.13 leave the jump back of a loop out of what
        # `with` protects, and a signal handler that raises there would leave the lock taken.
        with self._lock:
            return self._examine(client, sorted(ranks), asks)

    def keep_watch(self, client: StoreClient) -> None:
        """Have a few ranks of other machines hear of this rank's death, and hear of theirs.

        Each rank does so when it joins and at its heartbeats, so the job has O(N) connections.
        Both of a pair look for each other: who joins later finds who was earlier.

        Raises:
            StoreLostError: The store was lost.
        """
        if self._port is not None and len(self._port.watched()) < _WATCHED:
            with self._lock:
                self._keep_watch(client, self._port)

    def store_host(self, silent_secs: float | None) -> RankStatus | None:
        """Say of the rank that hosts the store how it is, without the store; None: no rank does.

        Args:
            silent_secs: For how long the store has not answered, in seconds, if it has not.
        """
        host = self._host
        if host is None:
            return None
        self._ask([host])
        quiet = (
            None if silent_secs is None else f"its store has not answered for {silent_secs:.0f} s"
        )
        process = _process(host) if host.machine == self._me.machine else None
        if process == "runs":  # the store's threads need no Python
            return RankStatus(host.rank, "alive", host.host, host.pid, detail=quiet)
        state, detail = judge(process, False, quiet, False, self._seen(host, silent_secs))
        if process == "stopped" and quiet is not None:
            detail = f"{quiet}: {detail}"
        return RankStatus(host.rank, state, host.host, host.pid, detail=detail)

    def _keep_watch(self, client: StoreClient, port: LivenessPort) -> None:
        ranks = [rank for rank in self._neighbours if not self._is_near(rank)]
        if self._world_size > 2:
            # Where ranks lie on machines unevenly, no neighbour may be on another one.
            ranks.append(random.randrange(self._world_size))
        for rank in ranks:  # another process may have taken over the rank since
            member = self._members.get(rank)
            if member is not None and port.seen(member.token) == "closed":
                del self._members[rank]
        self._read_members(client, ranks)
        watched = port.watched()
        for rank in ranks:
            member = self._members.get(rank)
            if (
                member is not None
                and member.liveness_port is not None
                and self._is_remote(rank)
                and len(watched) < _WATCHED
                and member.token not in watched
                and port.seen(member.token) not in ("closed", "left")
            ):
                port.watch(member.liveness_port, member.token)
                watched.add(member.token)

    def _examine(self, client: StoreClient, ranks: list[int], asks: bool) -> tuple[RankStatus, ...]:
        self._read(client, ranks)
        left = read_left(client, self._keys)
        if asks:
            silent = [rank for rank in ranks if rank not in left and self._silence(rank)]
            remote = [self._members[rank] for rank in silent if self._is_remote(rank)]
            self._ask(remote[:_ASKED_AT_ONCE])
        statuses = [self._status(rank, rank in left) for rank in ranks]
        dead = [status.rank for status in statuses if status.state == "dead"]
        if dead and self._were_replaced(client, dead):
            statuses = [self._status(rank, rank in left) for rank in ranks]
        return tuple(statuses)

    def _were_replaced(self, client: StoreClient, dead: list[int]) -> bool:
        """Whether other processes have taken over ranks whose records were read before."""
        before = {rank: self._members.pop(rank) for rank in dead}
        self._read_members(client, dead)
        new = [
            rank
            for rank in dead
            if rank in self._members and not self._members[rank].is_same_process(before[rank])
        ]
        for rank in new:
            self._heartbeats.pop(rank, None)
        return bool(new)

    def _ask(self, members: list[Member]) -> None:
        if self._port is None:
            return
        for member in members:
            if member.liveness_port is not None and member.machine != self._me.machine:
                self._port.ask(member.liveness_port, member.token)
        self._port.await_answers(_ANSWER_SECS)

    def _seen(self, member: Member, silence: float | None) -> Seen:
        if self._port is None or member.machine == self._me.machine:
            return "not asked"
        return self._port.seen(member.token, math.inf if silence is None else silence)

    def _read_members(self, client: StoreClient, ranks: list[int]) -> None:
        new = [rank for rank in ranks if rank not in self._members]
        if not new:
            return
        for rank, value in zip(new, client.read([self._keys.member(r) for r in new]), strict=True):
            if value is not None:
                self._members[rank] = decode_member(value)

    def _read(self, client: StoreClient, ranks: list[int]) -> None:
        self._read_members(client, ranks)
        now = time.monotonic()
        values = client.read([self._keys.heartbeat(rank) for rank in ranks])
        for rank, value in zip(ranks, values, strict=True):
            if value is None:
                continue
            heartbeat = _decode_heartbeat(value)
            seen = self._heartbeats.get(rank)
            if seen is None or seen[0].count != heartbeat.count:
                self._heartbeats[rank] = (heartbeat, now, seen is not None)

    def _is_remote(self, rank: int) -> bool:
        member = self._members.get(rank)
        return member is not None and member.machine != self._me.machine

    def _is_near(self, rank: int) -> bool:
        member = self._members.get(rank)
        return member is not None and member.machine == self._me.machine

    def _silence(self, rank: int) -> float | None:
        """Return for how long a rank has missed its heartbeats, in seconds; None if it has not."""
        if not self._heartbeat_secs or rank not in self._heartbeats:
            return None
        silence = time.monotonic() - self._heartbeats[rank][1]
        return silence if silence >= 2 * self._heartbeat_secs else None

    def _status(self, rank: int, has_left: bool) -> RankStatus:
        member = self._members.get(rank)
        if member is None:
            return RankStatus(rank, detail="has not joined")
        heartbeat, seen_at, fresh = self._heartbeats.get(rank, (None, 0.0, False))
        silence = self._silence(rank)
        process = _process(member) if self._is_near(rank) else None
        quiet = None if silence is None else f"no heartbeat for {silence:.0f} s"
        state, detail = judge(process, has_left, quiet, fresh, self._seen(member, silence))
        progress_age = None
        if heartbeat is not None and heartbeat.progress_age_secs is not None:
            progress_age = heartbeat.progress_age_secs + time.monotonic() - seen_at
        return RankStatus(
            rank=rank,
            state=state,
            host=member.host,
            pid=member.pid,
            progress=heartbeat.progress if heartbeat else None,
            progress_age_secs=progress_age,
            detail=detail,
        )


def neighbours(rank: int, world_size: int) -> list[int]:
    """Return the ranks at distances of 1, 2, 4, ... in the ring of all ranks, nearest first.

    Most launchers number the ranks of a machine in a row, or deal them out in turn. Either way, one
    of these distances leads to another machine.
    """
    found: dict[int, None] = {}
    distance = 1
    while distance < world_size:
        found |= {(rank + step) % world_size: None for step in (distance, -distance)}
        distance *= 2
    found.pop(rank, None)
    return list(found)


def judge(
    process: Process | None, has_left: bool, quiet: str | None, fresh: bool, seen: Seen
) -> tuple[RankState, str | None]:
    """Say of a rank whether it lives, and why that is known; dead only if a kernel has said so.

    Args:
        process: What this machine's kernel says; None: the rank is on another machine.
        has_left: Whether the store says that it has left.
        quiet: Since when nothing has been heard of it, such as ``no heartbeat for 12 s``; None if
            it has not missed a heartbeat.
        fresh: Whether a heartbeat has come that was not there at the first look.
        seen: What the connections to its liveness port say; see `links`.
    """
    if has_left or seen == "left":
        return "left", "has closed its barrier"
    if process == "gone" or seen == "closed":
        return "dead", "its process is gone"
    if process == "stopped":
        return "alive", "stopped by a signal"
    if process == "runs":
        return "alive", quiet and f"{quiet}: its Python does not run"
    if seen == "open":
        return "alive", quiet and f"{quiet}: stopped or stuck"
    if quiet is None and fresh:
        return "alive", None
    return "unknown", ", ".join(filter(None, (quiet, _UNKNOWN.get(seen)))) or None


_UNKNOWN: dict[Seen, str] = {
    "no answer": "its host does not answer",
    "unreachable": "its host cannot be reached",
    "refused": "its port refuses connections, as a firewall may for a process that lives",
    "accepted": "its port accepts connections, but nobody has said who is there",
    "forwarded": "its port is behind a forwarder, which may answer for it",
}


def _process(member: Member) -> Process:
    """Ask this machine's kernel for a rank of this machine."""
    if not is_running(member.pid, member.started):
        return "gone"
    return "stopped" if is_stopped(member.pid) else "runs"
