"""The ``tcp_store`` backend: connection handling around the agreement engine."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from barrier_core.agreement.barrier import (
    DEFAULT_HEARTBEAT_SECS,
    DEFAULT_LINGER_SECS,
    BarrierPrefix,
    Generation,
    HeartbeatSecs,
    LingerSecs,
    ProgressExtendsDeadline,
    StoreBarrier,
)
from barrier_core.agreement.store import StoreLostError
from barrier_core.contract import (
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    GlobalRank,
    GlobalWorldSize,
    TimeoutSecs,
    WarnAfterSecs,
    check_seconds,
)
from barrier_core.errors import BarrierConfigError, BarrierSetupError
from barrier_core.ranks import RankInfo
from barrier_tcp_store.hosting import Place, agent_store, host_store, place_of
from barrier_tcp_store.wire import ANSWER_SECS, TCPStoreLine

DEFAULT_PORT = 29511
DEFAULT_INIT_SECS = 300.0


class TCPStoreBarrier(StoreBarrier):
    """A barrier over torch's TCPStore: one round trip, one verdict for all ranks.

    Rank 0 hosts the store, on the interface of ``master_address`` only. Under torchrun, where no
    address is given, the agent's store is used instead; or pass a store of your own.

    Args:
        global_rank: This process's rank, from 0.
        global_world_size: Number of ranks that must arrive.
        barrier_prefix: Name of this barrier in the store.
        timeout_barrier_init_secs: How long, in seconds, to wait for the store at set-up.
        use_checkpoint_barrier_tcpstore_libuv: Which of torch's two servers rank 0 starts.
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
        BarrierSetupError: The store is not there in time, or the port is taken.
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
        """Kept: a server lives as long as torch's store object does."""
        place, hosted_by_rank_0 = _find(store, master_address, tcpstore_port)
        hosts_store = hosted_by_rank_0 and global_rank == 0
        if hosts_store:
            self._store = host_store(place, use_checkpoint_barrier_tcpstore_libuv)
        can_ring = _wait_for(place, timeout_barrier_init_secs, hosted_by_rank_0, global_rank)

        patience_secs = max(timeout_barrier_init_secs, ANSWER_SECS)

        def connect() -> TCPStoreLine:
            # Joining, on the first line, may be slow when thousands of ranks do it at once; a round
            # may not, nor may the watcher, who starts while this rank still joins.
            nonlocal patience_secs
            bound_secs, patience_secs = patience_secs, ANSWER_SECS
            line = TCPStoreLine(
                place.host, place.port, patience_secs=bound_secs, namespace=place.namespace
            )
            line.can_ring = can_ring
            line.answer_secs = bound_secs
            return line

        super().__init__(
            global_rank,
            global_world_size,
            connect=connect,
            store_name=str(place) + (", hosted by rank 0" if hosted_by_rank_0 else ""),
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=heartbeat_secs,
            progress_extends_deadline=progress_extends_deadline,
            hosts_store=hosts_store,
            linger_secs=linger_secs,
        )
        assert isinstance(self._line, TCPStoreLine)
        self._line.answer_secs = ANSWER_SECS

    def _close(self) -> None:
        super()._close()
        self._store = None  # the last reference to a hosted server ends it


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


def _wait_for(place: Place, patience_secs: float, hosted_by_rank_0: bool, rank: int) -> bool:
    """Wait until the store answers; return whether it can ring a bell.

    Raises:
        BarrierSetupError: It does not, within ``patience_secs``.
    """
    try:
        line = TCPStoreLine(
            place.host, place.port, patience_secs=patience_secs, namespace=place.namespace
        )
        try:
            line.answer_secs = patience_secs
            return line.probe_bell(f"barrier/probe/{os.urandom(8).hex()}")
        finally:
            line.close()
    except StoreLostError as error:
        remedy = (
            f"rank 0 hosts it: check that rank 0 has started, that master_address={place.host!r} "
            f"names its host, and that tcpstore_port={place.port} is open between the hosts"
            if hosted_by_rank_0
            else "check that its server still runs"
        )
        raise BarrierSetupError(
            f"rank {rank} cannot reach the {place}: {error}; {remedy}"
        ) from error
