"""The ``tcp_store`` backend: its options."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from barrier_core.plugin_api import (
    DEFAULT_HEARTBEAT_SECS,
    DEFAULT_LINGER_SECS,
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    BarrierPrefix,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    HeartbeatSecs,
    JobId,
    JobSecret,
    LingerSecs,
    Meta,
    ProgressExtendsDeadline,
    RankInfo,
    StoreBarrier,
    TimeoutSecs,
    Verify,
    WarnAfterSecs,
    check_name,
    check_seconds,
    job_id_from_environment,
)
from barrier_tcp_store.access import TCPStoreAccess, default_port, find_store

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
        use_checkpoint_barrier_tcpstore_libuv: Which of torch's two servers rank 0 starts; the
            barriers of a process that are hosted at one port share that of the first.
        tcpstore_port: Port of the store; if None, it follows from the job id (`default_port`).
        master_address: Name or address of rank 0's host.
        timeout_secs: Hard limit in seconds on one wait; None or infinity: no limit.
        store: A TCPStore, or a PrefixStore around one, to use instead of hosting one.
        generation: Changes when the whole job restarts; from the launcher if None.
        warn_after_secs: Soft limit in seconds after which observers hear who is missing.
        heartbeat_secs: Seconds between signs of life; 0 turns them off.
        progress_extends_deadline: Count the hard limit from the late ranks' last progress.
        linger_secs: How long, in seconds, the hosting rank waits for the others in ``close``.
        job_id: Tells this job from others that use the store or the host; from the launcher if
            None.
        secret: Known to this job's ranks only, at least 16 characters; ``BARRIER_SECRET`` or the
            file that ``BARRIER_SECRET_FILE`` names if None.
        verify: Authenticate every record with the secret, and read the log of every round.

    Raises:
        BarrierConfigError: An argument is out of range.
        BarrierSetupError: The store or rank 0 is not there in time, or the port is taken.
        RankConflictError: Another process has this rank, or the ranks disagree about the job.
    """

    barrier_type: ClassVar[str] = "tcp_store"
    contract_version: ClassVar[int] = 2

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
        tcpstore_port: Annotated[
            int | None,
            Meta(
                description="port of the store; if not given, one of 11000 to 19999 that follows "
                "from the job id, or 29511 without one"
            ),
        ] = None,
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
        job_id: JobId = None,
        secret: JobSecret = None,
        verify: Verify = False,
    ) -> None:
        RankInfo(global_rank, global_world_size)  # before anything is started for a wrong rank
        timeout_barrier_init_secs = check_seconds(
            "timeout_barrier_init_secs", timeout_barrier_init_secs
        )
        if job_id is None:
            job_id = job_id_from_environment() or ""
        check_name("job_id", job_id)
        if tcpstore_port is None:
            tcpstore_port = default_port(job_id)
        endpoint, hosted_by_rank_0 = find_store(store, master_address, tcpstore_port)
        super().__init__(
            global_rank,
            global_world_size,
            store=TCPStoreAccess(
                endpoint,
                hosted_by_rank_0,
                is_host=hosted_by_rank_0 and global_rank == 0,
                use_libuv=use_checkpoint_barrier_tcpstore_libuv,
                init_secs=timeout_barrier_init_secs,
                store=store,
            ),
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=heartbeat_secs,
            progress_extends_deadline=progress_extends_deadline,
            linger_secs=linger_secs,
            job_id=job_id,
            secret=secret,
            verify=verify,
        )
