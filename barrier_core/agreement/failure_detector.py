"""What can be said of ranks that have not arrived: where they run, and whether they live."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import msgspec

from barrier_core.agreement.keys import Keys
from barrier_core.agreement.liveness import Answer, is_running, is_stopped, probe
from barrier_core.agreement.membership import Member, decode_member, read_left
from barrier_core.agreement.store import StoreClient
from barrier_core.verdict import RankState, RankStatus

_PROBE_SECS = 0.3


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life of a rank, and what it last said of itself."""

    count: int
    progress: str | None
    progress_age_secs: float | None
    """Age of the progress when the heartbeat was sent: hosts' clocks are never compared."""


# Made once, at import; see `round_log.decode_break`.
_decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode


class FailureDetector:
    """Says of missing ranks where they run, what they last did, and whether they are dead.

    Keeps what it has seen, since silence can only be told from two looks. Used by the waiting
    thread and the watcher, one at a time.

    Args:
        keys: The barrier's keys.
        me: The record of the rank that asks.
        heartbeat_secs: Seconds between heartbeats; 0 where there are none.
    """

    def __init__(self, keys: Keys, me: Member, heartbeat_secs: float) -> None:
        self._keys = keys
        self._me = me
        self._heartbeat_secs = heartbeat_secs
        self._members: dict[int, Member] = {}
        self._heartbeats: dict[int, tuple[Heartbeat, float, bool]] = {}
        """By rank: the last heartbeat, when it was first seen, and whether one came before it."""
        self._lock = threading.Lock()

    def examine(self, client: StoreClient, ranks: Iterable[int]) -> tuple[RankStatus, ...]:
        """Return the status of each of ``ranks``, in order.

        Raises:
            StoreLostError: The store was lost.
        """
        # Nothing but a call in here: Python 3.12 and 3.13 leave the jump back of a loop out of what
        # `with` protects, and a signal handler that raises there would leave the lock taken.
        with self._lock:
            return self._examine(client, sorted(ranks))

    def _examine(self, client: StoreClient, ranks: list[int]) -> tuple[RankStatus, ...]:
        self._read(client, ranks)
        left = read_left(client, self._keys)
        ports = {
            rank: self._members[rank].liveness_port
            for rank in ranks
            if rank not in left and self._is_remote(rank) and self._silence(rank) is not None
        }
        probed = {rank: port for rank, port in ports.items() if port is not None}
        answers = dict(zip(probed, probe(list(probed.values()), _PROBE_SECS), strict=True))
        return tuple(self._status(rank, rank in left, answers.get(rank)) for rank in ranks)

    def _read(self, client: StoreClient, ranks: list[int]) -> None:
        new = [rank for rank in ranks if rank not in self._members]
        for rank, value in zip(new, client.read([self._keys.member(r) for r in new]), strict=True):
            if value is not None:
                self._members[rank] = decode_member(value)
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

    def _silence(self, rank: int) -> float | None:
        """Return for how long a rank has missed its heartbeats, in seconds; None if it has not."""
        if not self._heartbeat_secs or rank not in self._heartbeats:
            return None
        silence = time.monotonic() - self._heartbeats[rank][1]
        return silence if silence >= 2 * self._heartbeat_secs else None

    def _status(self, rank: int, has_left: bool, answer: Answer | None) -> RankStatus:
        member = self._members.get(rank)
        if member is None:
            return RankStatus(rank, detail="has not joined")
        heartbeat, seen_at, fresh = self._heartbeats.get(rank, (None, 0.0, False))
        silence = self._silence(rank)
        state, detail = self._judge(member, has_left, silence, fresh, answer)
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

    def _judge(
        self,
        member: Member,
        has_left: bool,
        silence: float | None,
        fresh: bool,
        answer: Answer | None,
    ) -> tuple[RankState, str | None]:
        if has_left:
            return "left", "has closed its barrier"
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
        if answer == "silent":
            return "unknown", f"{quiet}, its host does not answer"
        return "unknown", quiet
