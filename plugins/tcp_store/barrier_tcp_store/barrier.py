"""The ``tcp_store`` backend: connection handling around the agreement engine."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.store import Connect, StoreClient, StoreLostError
from barrier_core.errors import BarrierConfigError, BarrierSetupError
from barrier_core.launcher import RankInfo
from barrier_core.options import (
    DEFAULT_HEARTBEAT_SECS,
    DEFAULT_LINGER_SECS,
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    BarrierPrefix,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    HeartbeatSecs,
    LingerSecs,
    ProgressExtendsDeadline,
    TimeoutSecs,
    WarnAfterSecs,
    check_seconds,
)
from barrier_tcp_store.hosting import HostedStore, Place, agent_store, place_of
from barrier_tcp_store.wire import ANSWER_SECS, TCPStoreClient

DEFAULT_PORT = 29511
DEFAULT_INIT_SECS = 300.0
_RETRY_SECS = 0.05
_REFUSALS = 3
"""Lines in a row that what listens at the port may hang up on before it is taken for no store."""
_BELL_KEY = "barrier/bell"
"""Whether the server knows BARRIER, as the first rank to ask has found: ``yes`` or ``no``."""


class TCPStoreBarrier(StoreBarrier):
    """A barrier over torch's TCPStore: one round trip, one verdict for all ranks.

    Rank 0 hosts the store, on the interface of ``master_address`` only. Under torchrun, where no
    address is given, the agent's store is used instead; or pass a store of your own.

    Args:
        global_rank: This process's rank, from 0.
        global_world_size: Number of ranks that must arrive.
        barrier_prefix: Name of this barrier in the store.
        timeout_barrier_init_secs: How long, in seconds, to wait for the store at set-up.
        use_checkpoint_barrier_tcpstore_libuv: Which of torch's two servers rank 0 starts; the
            barriers of a process that are hosted at one port share that of the first.
        tcpstore_port: Port of the store.
        master_address: Name or address of rank 0's host.
        timeout_secs: Hard limit in seconds on one wait.
        store: A TCPStore, or a PrefixStore around one, to use instead of hosting one.
        generation: Changes when the whole job restarts; from the launcher if None.
        warn_after_secs: Soft limit in seconds after which observers hear who is missing.
        heartbeat_secs: Seconds between signs of life; 0 turns them off.
        progress_extends_deadline: Count the hard limit from the late ranks' last progress.
        linger_secs: How long, in seconds, the hosting rank waits for the others in ``close``.

    Raises:
        BarrierConfigError: An argument is out of range.
        BarrierSetupError: The store or rank 0 is not there in time, or the port is taken.
        RankConflictError: Another process has this rank, or the ranks disagree about the job.
    """

    barrier_type: ClassVar[str] = "tcp_store"
    contract_version: ClassVar[int] = 1

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        barrier_prefix: BarrierPrefix = "barrier",
        timeout_barrier_init_secs: Annotated[
            float, Meta(description="how long to wait for the store at set-up, in seconds")
        ] = DEFAULT_INIT_SECS,
        use_checkpoint_barrier_tcpstore_libuv: Annotated[
            bool, Meta(description="host torch's libuv server, or its older one")
        ] = True,
        tcpstore_port: Annotated[int, Meta(description="port of the store")] = DEFAULT_PORT,
        master_address: Annotated[
            str | None,
            Meta(
                description="name or address of rank 0's host; if not given, torchrun's store, "
                "MASTER_ADDR, or this host"
            ),
        ] = None,
        timeout_secs: TimeoutSecs = DEFAULT_TIMEOUT_SECS,
        store: Annotated[
            Any, Meta(description="a torch TCPStore to use instead, or a PrefixStore around one")
        ] = None,
        generation: Generation = None,
        warn_after_secs: WarnAfterSecs = DEFAULT_WARN_AFTER_SECS,
        heartbeat_secs: HeartbeatSecs = DEFAULT_HEARTBEAT_SECS,
        progress_extends_deadline: ProgressExtendsDeadline = False,
        linger_secs: LingerSecs = DEFAULT_LINGER_SECS,
    ) -> None:
        RankInfo(global_rank, global_world_size)  # before anything is started for a wrong rank
        check_seconds("timeout_barrier_init_secs", timeout_barrier_init_secs)
        self._store = store
        """Kept: the server may live only as long as torch's store object does."""
        self._place, self._hosted_by_rank_0 = _find(store, master_address, tcpstore_port)
        self._use_libuv = use_checkpoint_barrier_tcpstore_libuv
        self._init_secs = timeout_barrier_init_secs
        self._hosted: HostedStore | None = None
        try:
            super().__init__(
                global_rank,
                global_world_size,
                connect=self._dial,
                store_name=str(self._place)
                + (", hosted by rank 0" if self._hosted_by_rank_0 else ""),
                barrier_prefix=barrier_prefix,
                generation=generation,
                timeout_secs=timeout_secs,
                warn_after_secs=warn_after_secs,
                heartbeat_secs=heartbeat_secs,
                progress_extends_deadline=progress_extends_deadline,
                hosts_store=self._hosted_by_rank_0 and global_rank == 0,
                linger_secs=linger_secs,
            )
        except BaseException:
            self._leave_store()
            raise
        assert isinstance(self._line, TCPStoreClient)
        self._line.answer_secs = ANSWER_SECS

    def _open(self, connect: Connect) -> StoreClient:
        """Open the line to join on.

        Where rank 0 hosts the store, the server that answers first may be about to end: that of the
        barrier before. So a line that is hung up on is opened again.
        """
        deadline = time.monotonic() + self._init_secs
        if self._hosts_store:
            self._hosted = HostedStore(self._place, self._use_libuv)
        refusals = 0
        while True:
            line = None
            try:
                line = self._dial(max(deadline - time.monotonic(), _RETRY_SECS))
                refusals = 0
                # Joining may be slow, as thousands of ranks may do it at once; a round may not.
                line.answer_secs = max(self._init_secs, ANSWER_SECS)
                if self._hosted_by_rank_0 and not self._hosts_store:
                    self._wait_for_host(line, deadline)
                line.can_ring = self._can_ring(line)
                return line
            except BaseException as error:
                if line is None:
                    refusals += 1
                else:
                    line.close()
                if not isinstance(error, StoreLostError):
                    raise
                if refusals == _REFUSALS or time.monotonic() + _RETRY_SECS >= deadline:
                    raise self._unreachable(error) from error
            time.sleep(_RETRY_SECS)

    def _dial(self, patience_secs: float = ANSWER_SECS) -> TCPStoreClient:
        host, port, namespace = self._place
        return TCPStoreClient(host, port, patience_secs=patience_secs, namespace=namespace)

    def _can_ring(self, line: TCPStoreClient) -> bool:
        """Whether all ranks may use the bell; they agree, as it never rings if one only polls.

        Older servers hang up when they are asked for it. Why an ending server is not taken for an
        old one: what was found counts only when the same server has kept it, on a line that an
        ending server would have hung up, too.
        """
        (known,) = line.read([_BELL_KEY])
        if known is None:
            with closing(self._dial()) as scratch:
                scratch.answer_secs = line.answer_secs
                found = scratch.probe_bell(f"barrier/probe/{os.urandom(8).hex()}")
            known = line.create(_BELL_KEY, b"yes" if found else b"no")
        return known == b"yes"

    def _unreachable(self, error: StoreLostError) -> BarrierSetupError:
        place = self._place
        remedy = (
            f"rank 0 hosts it: check that rank 0 has started, that master_address={place.host!r} "
            f"names its host, and that tcpstore_port={place.port} is open between the hosts"
            if self._hosted_by_rank_0
            else "check that its server still runs"
        )
        return BarrierSetupError(f"rank {self._rank} cannot reach the {place}: {error}; {remedy}")

    def _close(self) -> None:
        try:
            super()._close()
        finally:
            self._leave_store()

    def _leave_store(self) -> None:
        self._store = None
        if self._hosted is not None:
            self._hosted.release()


def _find(store: Any, master_address: str | None, port: int) -> tuple[Place, bool]:
    """Return where the store is, and whether rank 0 is to host it."""
    if store is not None:
        return place_of(store), False
    if not 1 <= port <= 65535:
        raise BarrierConfigError(
            f"tcpstore_port={port} must be between 1 and 65535, the same on all ranks"
        )
    if master_address is None:
        agent = agent_store()
        if agent is not None:
            return agent, False
        master_address = os.environ.get("MASTER_ADDR") or "127.0.0.1"
    return Place(master_address, port), True
