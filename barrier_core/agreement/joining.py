"""How a rank gets into a barrier: its slot, its connection, its record among the members."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from barrier_core.agreement.cleanup import confirm, register, remove_older
from barrier_core.agreement.foreign import StoreLostError, longest_value
from barrier_core.agreement.keys import HOSTED_FOR, Keys
from barrier_core.agreement.liveness import LivenessPort
from barrier_core.agreement.membership import Member, join, wait_for_host
from barrier_core.agreement.open_barriers import Slot
from barrier_core.agreement.sealing import SealingClient, derive
from barrier_core.agreement.setting_up import SettingUp
from barrier_core.agreement.store import ANSWER_SECS, Connect, StoreAccess, StoreClient
from barrier_core.errors import BarrierSetupError
from barrier_core.launcher import RankInfo

_NAME_DIGITS = 32
"""Hex digits of a name that follows from a secret: 128 bits."""


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
    connect: Connect
    """Opens another connection."""
    answer_by: float
    """When set-up has to be over, in monotonic seconds, as far as the backend has said."""


class _Joining:
    """The joining that is under way; see `store.Joining`."""

    def __init__(
        self,
        rank: int,
        keys: Keys,
        slot: Slot,
        setting_up: SettingUp,
        prepare: Callable[[StoreClient], StoreClient],
    ) -> None:
        self.rank = rank
        self.keys = keys
        self.host: Member | None = None
        self._slot = slot
        self._prepare = prepare
        self._setting_up = setting_up

    def still_waiting(self, for_what: str) -> None:
        """See `store.Joining`."""
        self._setting_up.waits_for = for_what

    def wait_for_host(self, client: StoreClient, deadline: float) -> None:
        """See `store.Joining`."""
        keys, self.host = wait_for_host(
            self._prepare(client), self.keys, deadline, self.still_waiting
        )
        if keys is not self.keys:
            self.keys = keys
            self._slot.move_to(keys.incarnation)


def join_barrier(
    store: StoreAccess,
    rank_info: RankInfo,
    job_id: str,
    prefix: str,
    generation: str,
    setting_up: SettingUp,
    *,
    heartbeats: bool,
    secret: str | None = None,
    verify: bool = False,
) -> Joined:
    """Take a slot, connect, and become a member.

    Args:
        store: How to get at the store.
        rank_info: Who joins.
        job_id: Tells the job from others; empty where nothing does.
        prefix: The barrier's name.
        generation: The job's generation.
        setting_up: Is told what it waits for.
        heartbeats: Whether the ranks look after each other over the network.
        secret: Known to the job's ranks only, if they have one; the names of the keys follow from
            it.
        verify: Whether records are authenticated with it.

    Raises:
        BarrierSetupError: The store cannot be reached.
        RankConflictError: Another process has this rank, or the ranks disagree about the job.
    """
    rank = rank_info.global_rank
    with ExitStack() as undo:
        undo.callback(store.close)
        slot = Slot.take((store.name, job_id, prefix, generation, rank))
        undo.callback(slot.give_back)
        secret_name = derive(secret, "keys", job_id).hex()[:_NAME_DIGITS] if secret else ""
        keys = Keys(prefix, f"{generation}.{slot.incarnation}", job_id, secret_name)
        seal = derive(secret, "records", job_id) if secret and verify else None

        def prepare(client: StoreClient) -> StoreClient:
            client.longest_value = longest_value(rank_info.global_world_size)
            return client if seal is None else SealingClient(client, seal)

        joining = _Joining(rank, keys, slot, setting_up, prepare)
        try:
            client = store.open(joining)
            undo.callback(client.close)
            joining.still_waiting(f"no answer from the {store.name}")
            if store.hosts_store:
                client.write(HOSTED_FOR, job_id.encode())
            client = prepare(client)
            port = LivenessPort.open(client.address()) if heartbeats else None
            if port is not None:
                undo.callback(port.close)
            me = Member.myself(rank_info, port)
            keys = joining.keys
            register(client, keys)
            job, is_first = join(client, keys, me, rank_info.global_world_size)
            if is_first or rank == 0:
                remove_older(client, keys, barriers=rank == 0)
            confirm(client, keys, job, rank)
        except StoreLostError as error:
            raise BarrierSetupError(f"cannot join through the {store.name}: {error}") from error
        undo.pop_all()
    # Joining may be slow, as thousands of ranks may do it at once; a round may not.
    answer_by = client.answer_by
    client.answer_secs, client.answer_by = ANSWER_SECS, math.inf
    client.incarnation = (keys.job, job)

    def connect() -> StoreClient:
        return prepare(store.connect())

    return Joined(slot, keys, client, me, joining.host, port, job, connect, answer_by)
