"""How a rank gets into a barrier: its slot, its connection, its record among the members."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import NamedTuple

from barrier_core.agreement.cleanup import remove_older
from barrier_core.agreement.keys import HOSTED_FOR, Keys
from barrier_core.agreement.liveness import LivenessPort
from barrier_core.agreement.membership import Member, join, wait_for_host
from barrier_core.agreement.open_barriers import Slot
from barrier_core.agreement.store import ANSWER_SECS, StoreAccess, StoreClient, StoreLostError
from barrier_core.errors import BarrierSetupError
from barrier_core.exhaustion import exhausted
from barrier_core.launcher import RankInfo


class Joined(NamedTuple):
    """What a rank has got by joining."""

    slot: Slot
    keys: Keys
    client: StoreClient
    """The caller's connection."""
    me: Member
    host: Member | None
    """The record of rank 0, on the ranks whose store it hosts."""
    liveness_port: LivenessPort | None
    job: bytes
    """The job's record in the store."""


class _Joining:
    """The joining that is under way; see `store.Joining`."""

    def __init__(self, rank_info: RankInfo, keys: Keys, slot: Slot) -> None:
        self.rank = rank_info.global_rank
        self.world_size = rank_info.global_world_size
        self.keys = keys
        self.host: Member | None = None
        self._slot = slot

    def wait_for_host(self, client: StoreClient, deadline: float) -> None:
        """See `store.Joining`."""
        keys, self.host = wait_for_host(client, self.keys, deadline)
        if keys is not self.keys:
            self.keys = keys
            self._slot.move_to(keys.incarnation)


def join_barrier(
    store: StoreAccess,
    rank_info: RankInfo,
    job_id: str,
    prefix: str,
    generation: str,
    heartbeats: bool,
) -> Joined:
    """Take a slot, connect, and become a member.

    Args:
        store: How to get at the store.
        rank_info: Who joins.
        job_id: Tells the job from others; empty where nothing does.
        prefix: The barrier's name.
        generation: The job's generation.
        heartbeats: Whether the ranks look after each other over the network.

    Raises:
        BarrierSetupError: The store cannot be reached.
        RankConflictError: Another process has this rank, or the ranks disagree about the job.
    """
    rank = rank_info.global_rank
    with ExitStack() as undo:
        undo.callback(store.close)
        slot = Slot.take((store.name, job_id, prefix, generation, rank))
        undo.callback(slot.give_back)
        keys = Keys(prefix, f"{generation}.{slot.incarnation}", job_id)
        joining = _Joining(rank_info, keys, slot)
        try:
            client = store.open(joining)
            undo.callback(client.close)
            if store.hosts_store:
                client.write(HOSTED_FOR, job_id.encode())
            port = LivenessPort.open(client.address()) if heartbeats else None
            if port is not None:
                undo.callback(port.close)
            me = Member.myself(rank_info, port)
            job = join(client, joining.keys, me, rank_info.global_world_size)
            if rank == 0:
                remove_older(client, joining.keys)
        except StoreLostError as error:
            raise BarrierSetupError(f"cannot join through the {store.name}: {error}") from error
        except (OSError, MemoryError) as error:
            why = exhausted(error)
            if why is None:
                raise
            raise BarrierSetupError(f"rank {rank} cannot join: {why}") from error
        undo.pop_all()
    # Joining may be slow, as thousands of ranks may do it at once; a round may not.
    client.answer_secs, client.answer_by = ANSWER_SECS, math.inf
    client.incarnation = (joining.keys.job, job)
    return Joined(slot, joining.keys, client, me, joining.host, port, job)
