"""How a rank gets at a TCPStore: finding it, hosting it on rank 0, connecting to it."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import closing
from typing import Any

from barrier_core.plugin_api import (
    ANSWER_SECS,
    BarrierSetupError,
    Joining,
    StoreAccess,
    StoreClient,
    StoreLostError,
    StoreNotTriedError,
)
from barrier_tcp_store.connecting import StillWaiting, go_on
from barrier_tcp_store.hosting import (
    Endpoint,
    HostedStore,
    agent_store,
    check_address,
    check_port,
    check_room,
    endpoint_of,
)
from barrier_tcp_store.wire import TCPStoreClient

_RETRY_SECS = 0.05
_REFUSALS = 3
"""Connections in a row that what listens at the port may close before it is taken for no store."""
_PORT_WITHOUT_JOB = 29511
_PORTS = range(11_000, 20_000)
_COUNTS_KEY = "barrier/counts"
"""Whether the server knows BARRIER, as the first rank to ask has found: ``yes`` or ``no``."""


class TCPStoreAccess(StoreAccess):
    """One rank's way to a TCPStore.

    Args:
        endpoint: Where the store is.
        hosted_by_rank_0: Whether rank 0 starts it.
        is_host: Whether this rank does.
        use_libuv: Which of torch's two servers to start.
        init_secs: How long, in seconds, to wait for the store when joining.
        store: The user's store object, if there is one. Kept, since the server may live only as
            long as it does.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        hosted_by_rank_0: bool,
        is_host: bool,
        use_libuv: bool,
        init_secs: float,
        store: Any,
    ) -> None:
        hosted = ", hosted by rank 0" if hosted_by_rank_0 else ""
        super().__init__(f"{endpoint}{hosted}", self._connect)
        self.hosts_store = is_host
        self._endpoint = endpoint
        self._hosted_by_rank_0 = hosted_by_rank_0
        self._use_libuv = use_libuv
        self.set_up_secs = init_secs
        self._store = store
        self._hosted: HostedStore | None = None

    def open(self, joining: Joining) -> StoreClient:
        """See `StoreAccess`.

        Where rank 0 hosts the store, the server that answers first may be about to end: that of the
        barrier before. So a connection that it closes is opened again.

        Raises:
            BarrierSetupError: The store or rank 0 is not there in time, or the port is taken.
        """
        deadline = time.monotonic() + self.set_up_secs
        if self.hosts_store:
            check_room(joining.world_size)
            self._hosted = HostedStore(self._endpoint, self._use_libuv)
        refusals = 0

        def still_waiting(why: str) -> None:
            joining.still_waiting(f"no answer from the {self.name}" + (why and f" ({why})"))

        while True:
            client = None
            try:
                patience_secs = max(deadline - time.monotonic(), _RETRY_SECS)
                client = self._connect(patience_secs, still_waiting)
                refusals = 0
                # Joining may be slow, as thousands of ranks may do it at once.
                client.answer_secs = max(self.set_up_secs, ANSWER_SECS)
                client.answer_by = deadline + ANSWER_SECS
                if self._hosted_by_rank_0 and not self.hosts_store:
                    joining.wait_for_host(client, deadline)
                client.can_count = self._can_count(client)
                client.still_waiting = go_on
                # From now on nobody waits for a name server, which nothing could end.
                self._endpoint = self._endpoint._replace(host=client.server_address())
                return client
            except BaseException as error:
                if client is None:
                    refusals += 1
                else:
                    client.close()
                if not isinstance(error, StoreLostError) or isinstance(error, StoreNotTriedError):
                    raise
                if refusals == _REFUSALS or time.monotonic() + _RETRY_SECS >= deadline:
                    raise self._unreachable(joining.rank, error) from error
            time.sleep(_RETRY_SECS)

    def close(self) -> None:
        """See `StoreAccess`."""
        self._store = None
        if self._hosted is not None:
            self._hosted.release()

    def _connect(
        self, patience_secs: float = ANSWER_SECS, still_waiting: StillWaiting | None = None
    ) -> TCPStoreClient:
        host, port, namespace = self._endpoint
        return TCPStoreClient(
            host,
            port,
            patience_secs=patience_secs,
            namespace=namespace,
            still_waiting=still_waiting or self._end_when_closing,
        )

    def _end_when_closing(self, why: str) -> None:
        if self.is_closing:
            raise StoreLostError("the barrier is being closed")

    def _can_count(self, client: TCPStoreClient) -> bool:
        """Whether all ranks may use BARRIER; they agree, as one that only polls is not counted.

        Older servers close the connection when they are asked for it. Why an ending server is not
        taken for an old one: what was found counts only when the same server has kept it, on a
        connection that an ending server would have closed, too.
        """
        (known,) = client.read([_COUNTS_KEY])
        if known is None:
            left = max(client.answer_by - time.monotonic(), _RETRY_SECS)
            with closing(self._connect(min(left, ANSWER_SECS))) as scratch:
                scratch.answer_secs, scratch.answer_by = client.answer_secs, client.answer_by
                found = scratch.probe_counting(f"barrier/probe/{os.urandom(8).hex()}")
            known = client.create(_COUNTS_KEY, b"yes" if found else b"no")
        return known == b"yes"

    def _unreachable(self, rank: int, error: StoreLostError) -> BarrierSetupError:
        endpoint = self._endpoint
        remedy = (
            f"rank 0 hosts it: check that rank 0 has started, that master_address="
            f"{endpoint.host!r} names its host, and that tcpstore_port={endpoint.port} is open "
            "between the hosts"
            if self._hosted_by_rank_0
            else "check that its server still runs"
        )
        return BarrierSetupError(
            f"rank {rank} cannot reach the {endpoint} within {self.set_up_secs:g} s: {error}; "
            f"{remedy}"
        )


def default_port(job_id: str) -> int:
    """Return the port at which rank 0 hosts the store where none is given.

    Two jobs on one host seldom get the same, and all ranks of a job do. The ports are below those
    that systems give to clients.
    """
    if not job_id:
        return _PORT_WITHOUT_JOB
    number = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8], "big")
    return _PORTS[number % len(_PORTS)]


def find_store(store: Any, master_address: str | None, port: int) -> tuple[Endpoint, bool]:
    """Return where the store is, and whether rank 0 is to host it.

    Args:
        store: A store object of the user's, or None.
        master_address: Name or address of rank 0's host, if it is given.
        port: The store's port.

    Raises:
        BarrierConfigError: They cannot be used.
    """
    if store is not None:
        return endpoint_of(store), False
    check_port("tcpstore_port", port)
    given_as = "master_address"
    if master_address is None:
        agent = agent_store()
        if agent is not None:
            return agent, False
        given_as, master_address = "MASTER_ADDR", os.environ.get("MASTER_ADDR") or "127.0.0.1"
    check_address(given_as, master_address)
    return Endpoint(master_address, port), True
