"""Strangers on the network, at the store's port and at the liveness port of a rank."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from barrier_core.agreement.keys import Keys, Series
from barrier_core.errors import BarrierConnectionError, BarrierFailedError
from barrier_core.testing.rank_processes import RankProcesses, wait_until
from barrier_core.testing.rank_threads import RankThreads
from barrier_tcp_store import TCPStoreBarrier
from barrier_tcp_store.wire import TCPStoreClient
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import SOON_SECS, client_of, keys_of, soon, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import Job, join
from plugins.tcp_store.tests.rank_functions import arrive as arrive_as_rank

_LONGEST_REQUEST = 4 * 2**20  # bytes; torch's server takes 8 MiB
SECRET = "correct horse battery staple"
GARBAGE = {
    "nothing": b"",
    "half a request": b"\x00" + struct.pack("=I", 0x3C85F7CE)[:2],
    "a request of 2^60 bytes": b"\x00"
    + struct.pack("=I", 0x3C85F7CE)
    + b"\x01"
    + struct.pack("=Q", 2**60),
    "noise": bytes(range(256)) * 40,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}
"""What a stranger says before it says no more."""


class TCPStore(SimpleNamespace):
    """Says where a store is, as torch's object does."""


@contextmanager
def threads_of(port: int, world_size: int, **options: Any) -> Iterator[list[TCPStoreBarrier]]:
    """The barriers of a job whose ranks are threads of this process."""
    options = {"timeout_secs": 2.0, "heartbeat_secs": 0.0, "job_id": "strangers", **options}
    with ExitStack() as undo:
        with RankThreads(world_size) as threads:

            def make(rank: int) -> TCPStoreBarrier:
                store = TCPStore(host="127.0.0.1", port=port)
                return TCPStoreBarrier(rank, world_size, store=store, **options)

            calls = [threads.start(rank, make) for rank in range(world_size)]
            barriers = [call.result(SOON_SECS) for call in calls]
        for barrier in barriers:
            undo.callback(barrier.close)
        yield barriers


def arrive(barriers: list[TCPStoreBarrier]) -> list[BaseException | None]:
    """Have all go through a round; return what each has raised."""

    def go(rank: int) -> None:
        barriers[rank].execute_barrier()

    with RankThreads(len(barriers)) as threads:
        calls = [threads.start(rank, go) for rank in range(len(barriers))]
        return [call.error(SOON_SECS) for call in calls]


@contextmanager
def garbage(port: int, said: bytes, connections: int = 20) -> Iterator[None]:
    """Keep connections to a port on which something has been said."""
    with ExitStack() as undo:
        for _ in range(connections):
            connection = undo.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(said)
        yield


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_rounds_go_on_whatever_strangers_say_to_the_store(said: bytes, libuv_port: int) -> None:
    with (
        threads_of(libuv_port, 2, barrier_prefix=f"garbage-{len(said)}") as barriers,
        garbage(libuv_port, said),
    ):
        for _ in range(20):
            assert arrive(barriers) == [None, None]


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_a_wait_ends_in_time_whatever_strangers_say_to_the_older_server(
    said: bytes, store_process: Any
) -> None:
    # It serves one connection after another, and half a request holds up all of them.
    port = store_process.serve(use_libuv=False)
    with threads_of(port, 2, timeout_secs=1.0) as barriers, garbage(port, said, connections=1):
        with soon():
            outcomes = arrive(barriers)
        for barrier, error in zip(barriers, outcomes, strict=True):
            assert error is None or isinstance(error, BarrierConnectionError), error
            assert barrier.failed is error


def test_a_value_of_many_bytes_ends_a_wait_in_time_and_takes_no_memory(own_port: int) -> None:
    size = 64 * 2**20
    with threads_of(own_port, 3, timeout_secs=2.0) as barriers:
        keys = Keys("barrier", "0.0", "strangers")
        with closing(TCPStoreClient("127.0.0.1", own_port)) as stranger:
            for _ in range(size // _LONGEST_REQUEST):
                stranger.append(keys.round(1, "").log, b"x" * _LONGEST_REQUEST)
            stranger.read([keys.job])  # once it answers, the store has them
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with soon():
            outcomes = arrive(barriers[:2])
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        for error in outcomes:
            assert isinstance(error, BarrierConnectionError)
            assert "no rank has written so much" in str(error)
        assert grown_kb < size / 1024 / 2


def test_a_rank_whose_liveness_port_is_flooded_goes_on(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(heartbeat_secs=0.5)
    for call in ranks.start_all(join, job):
        call.result()
    calls = [ranks.start(rank, arrive_as_rank, job) for rank in range(3)]
    wait_until_arrived(job, [0, 1, 2])
    port = _liveness_port(job, 0)
    before = _descriptors(ranks.pid(0))
    with ExitStack() as undo:
        for number in range(600):
            connection = undo.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall((b"", b"\xff" * 300, b"a b c\n", b"farewell\n")[number % 4])
        wait_until(lambda: _descriptors(ranks.pid(0)) > before, "it has accepted some", 10)
        assert _descriptors(ranks.pid(0)) <= before + 300
        last = ranks.start(3, arrive_as_rank, job)
        assert [call.error(SOON_SECS) for call in (*calls, last)] == [None] * 4


def _liveness_port(job: Job, rank: int) -> int:
    from barrier_core.agreement.membership import decode_member

    with closing(client_of(job)) as client:
        record = client.read([keys_of(job).member(rank)])[0]
        assert record is not None
        endpoint = decode_member(record).liveness_port
        assert endpoint is not None
        return endpoint[1]


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# The job's secret, at the store that has all of the forged.


def of_job(barrier: TCPStoreBarrier) -> Keys:
    """The keys of a barrier, as somebody knows them who has listened on the network."""
    return barrier._keys


FORGED_ROUND = 4


def forge_arrival(stranger: TCPStoreClient, keys: Keys) -> None:
    stranger.append(keys.round(FORGED_ROUND, "").log, b"A1\n")


def forge_release(stranger: TCPStoreClient, keys: Keys) -> None:
    series = keys.series(1, 2, "")
    stranger.arrive(Series("", series.before, series.after, b"A1\n", 2), FORGED_ROUND)


def forge_passed(stranger: TCPStoreClient, keys: Keys) -> None:
    stranger.write(keys.passed, b"%d" % FORGED_ROUND)


def forge_abort(stranger: TCPStoreClient, keys: Keys) -> None:
    log = keys.round(FORGED_ROUND, "").log
    stranger.append(log, b'B{"kind":"abort","rank":1,"reason":"forged"}\n')


def forge_verdict(stranger: TCPStoreClient, keys: Keys) -> None:
    stranger.write(keys.verdict, b'{"kind":"abort","round":99,"reason":"forged"}')


FORGERIES = [forge_arrival, forge_release, forge_passed, forge_abort, forge_verdict]


@pytest.mark.parametrize("forge", FORGERIES)
def test_with_verify_nobody_passes_or_is_told_what_no_rank_has_written(
    forge: Callable[[TCPStoreClient, Keys], None], libuv_port: int
) -> None:
    with threads_of(
        libuv_port, 2, barrier_prefix=forge.__name__, secret=SECRET, verify=True, timeout_secs=1.0
    ) as barriers:
        for _ in range(FORGED_ROUND - 1):
            assert arrive(barriers) == [None, None]
        keys = of_job(barriers[0])
        waiting = threading.Thread(target=lambda: arrive(barriers[:1]))
        waiting.start()
        with closing(TCPStoreClient("127.0.0.1", libuv_port)) as stranger:
            forge(stranger, keys)
        waiting.join(SOON_SECS)
        assert isinstance(barriers[0].failed, BarrierFailedError)
        assert "forged" not in str(barriers[0].failed)


def test_with_a_secret_no_key_can_be_named_by_who_does_not_know_it(own_port: int) -> None:
    named = []
    for secret in (SECRET, SECRET + "!"):
        with threads_of(own_port, 2, secret=secret) as barriers:
            named.append(of_job(barriers[0]).base.split("/")[1])
            for _ in range(FORGED_ROUND - 1):
                assert arrive(barriers) == [None, None]
            with closing(TCPStoreClient("127.0.0.1", own_port)) as stranger:
                for forge in FORGERIES:
                    forge(stranger, Keys("barrier", "0.0", "strangers"))
            assert arrive(barriers) == [None, None]
    assert len({"strangers", *named}) == 3
