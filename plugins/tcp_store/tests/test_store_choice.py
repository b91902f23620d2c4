"""Which store is used, and what is said of one that cannot be."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from barrier_core import create_barrier
from barrier_core.errors import BarrierConfigError, BarrierSetupError, BarrierTimeoutError
from barrier_core.testing.rank_processes import RankProcesses
from barrier_tcp_store import TCPStoreBarrier
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import client_of, soon
from plugins.tcp_store.tests.rank_functions import Job, arrive, close, go_through, join


@pytest.fixture(scope="session")
def dist() -> Any:
    """``torch.distributed``; imported late, since it takes seconds."""
    return importlib.import_module("torch.distributed")


@pytest.fixture(scope="session")
def torch_store(dist: Any, libuv_port: int) -> Any:
    """torch's own client of the session's store."""
    return dist.TCPStore("127.0.0.1", libuv_port, is_master=False)


@contextmanager
def listener(answer: bytes | None = None) -> Iterator[int]:
    """Something that listens and is no TCPStore: it says nothing, or always the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    client, _ = server.accept()
                    client.sendall(answer or b"")
                    clients.append(client)
            except OSError:
                return  # the test is over

        clients: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client in clients:
            client.close()


def alone(prefix: str, **options: Any) -> TCPStoreBarrier:
    """Make a barrier of one rank in this process."""
    return TCPStoreBarrier(0, 1, prefix, **options)


def test_a_tcp_store_of_the_user_is_used(torch_store: Any) -> None:
    with alone("given", store=torch_store) as barrier:
        barrier.execute_barrier()
        assert torch_store.check(["barrier//given/0.0/job"])


def test_two_prefix_stores_do_not_meet(dist: Any, torch_store: Any) -> None:
    red, blue = (dist.PrefixStore(colour, torch_store) for colour in ("red", "blue"))
    options: dict[str, Any] = {"barrier_prefix": "shared", "timeout_secs": 0.3}
    # One process is rank 0 of both, and nobody else ever comes.
    with (
        TCPStoreBarrier(0, 2, store=red, **options) as in_red,
        TCPStoreBarrier(1, 2, store=blue, **options),
    ):
        with pytest.raises(BarrierTimeoutError, match="rank 1 \\(has not joined\\)"):
            in_red.execute_barrier()
        with TCPStoreBarrier(0, 2, store=blue, **options):
            pass


def test_one_process_may_use_one_prefix_in_two_prefix_stores(dist: Any, torch_store: Any) -> None:
    red, blue = (dist.PrefixStore(colour, torch_store) for colour in ("red", "blue"))
    with alone("both", store=red) as in_red, alone("both", store=blue) as in_blue:
        in_red.execute_barrier()
        in_blue.execute_barrier()


def test_ranks_that_share_a_prefix_store_meet(dist: Any, torch_store: Any) -> None:
    nested = dist.PrefixStore("outer", dist.PrefixStore("inner", torch_store))
    barriers = [TCPStoreBarrier(rank, 2, "meeting", store=nested) for rank in (0, 1)]
    other = threading.Thread(target=barriers[1].execute_barrier)
    other.start()
    barriers[0].execute_barrier(timeout_secs=30)
    other.join()
    for barrier in barriers:
        barrier.close()


def test_another_kind_of_store_is_refused(dist: Any) -> None:
    with pytest.raises(BarrierConfigError, match="but this is a HashStore"):
        alone("hash", store=dist.HashStore())


def test_the_agents_store_is_used_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, libuv_port: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(libuv_port))
    with create_barrier(
        "tcp_store", global_rank=0, global_world_size=1, barrier_prefix="agent"
    ) as barrier:
        assert isinstance(barrier, TCPStoreBarrier)
        # Only the agent listens there: to host a store as well would have failed.
        barrier.execute_barrier()


def test_torchruns_agent_without_an_address_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(BarrierConfigError, match="MASTER_ADDR and MASTER_PORT do not say where"):
        alone("agent")


def test_the_eight_parameters_of_torchs_own_class_work_by_position(free_port: int) -> None:
    with TCPStoreBarrier(0, 1, "seed", 20, False, free_port, "127.0.0.1", 30) as barrier:
        barrier.execute_barrier()
        assert barrier.timeout_secs == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tcpstore_port": 0}, "tcpstore_port=0 must be between 1 and 65535"),
        ({"tcpstore_port": 65536}, "tcpstore_port=65536 must be between 1 and 65535"),
        ({"timeout_barrier_init_secs": 0}, "timeout_barrier_init_secs=0 must be a positive"),
        ({"timeout_secs": -1}, "timeout_secs=-1 must be a positive"),
        ({"heartbeat_secs": -1}, "heartbeat_secs=-1 must be 0 or a positive"),
        ({"barrier_prefix": "x" * 501}, "must be a text of at most 500 bytes"),
        ({"barrier_prefix": "\N{GRINNING FACE}" * 126}, "must be a text of at most 500 bytes"),
        ({"generation": "x" * 501}, "generation='x+... must be a text of at most 500 bytes"),
        ({"global_rank": 1}, "global_rank=1 must be between 0 and 0"),
    ],
)
def test_a_wrong_argument_is_refused(options: dict[str, Any], message: str, free_port: int) -> None:
    arguments = {"global_rank": 0, "global_world_size": 1, "tcpstore_port": free_port}
    with pytest.raises(BarrierConfigError, match=message):
        TCPStoreBarrier(**(arguments | {"master_address": "127.0.0.1"} | options))


@pytest.mark.parametrize("name", ["x" * 500, "\N{GRINNING FACE}" * 125, "a/b c%2Fd\n\0"])
def test_the_longest_and_the_oddest_names_work(torch_store: Any, name: str) -> None:
    with alone(name, store=torch_store, generation=name) as barrier:
        barrier.execute_barrier(tag=name)


def test_a_wrong_argument_leaves_the_port_free(free_port: int) -> None:
    for _ in range(2):
        with pytest.raises(BarrierConfigError, match="timeout_secs"):
            alone("wrong", tcpstore_port=free_port, master_address="127.0.0.1", timeout_secs=0)
    with alone("right", tcpstore_port=free_port, master_address="127.0.0.1"):
        pass


def test_a_port_in_use_is_a_clear_error() -> None:
    with (
        listener() as port,
        pytest.raises(BarrierSetupError, match="the port is taken: give all ranks another"),
    ):
        alone("taken", tcpstore_port=port, master_address="127.0.0.1")


def test_an_address_of_another_host_is_a_clear_error(free_port: int) -> None:
    # TEST-NET-1: no host has it
    with pytest.raises(BarrierSetupError, match="must be an address of rank 0's host"):
        alone("elsewhere", tcpstore_port=free_port, master_address="192.0.2.1")


def test_a_master_that_is_not_there_is_waited_for_no_longer_than_told(free_port: int) -> None:
    with soon(), pytest.raises(BarrierSetupError, match="check that rank 0 has started"):
        TCPStoreBarrier(
            1, 2, tcpstore_port=free_port, master_address="127.0.0.1", timeout_barrier_init_secs=1
        )


@pytest.mark.parametrize(("answer", "init_secs"), [(None, 1), (b"SSH-2.0-OpenSSH_9.6\r\n", 60)])
def test_something_else_at_the_port_is_not_taken_for_a_store(
    answer: bytes | None, init_secs: float
) -> None:
    with (
        listener(answer) as port,
        soon(),
        pytest.raises(BarrierSetupError, match="no TCPStore"),
    ):
        TCPStoreBarrier(
            1,
            2,
            tcpstore_port=port,
            master_address="127.0.0.1",
            timeout_barrier_init_secs=init_secs,
        )


@pytest.mark.parametrize("use_libuv", [True, False])
def test_the_store_listens_at_its_own_address_only(free_port: int, use_libuv: bool) -> None:
    with alone(
        "interface",
        tcpstore_port=free_port,
        master_address="127.0.0.1",
        use_checkpoint_barrier_tcpstore_libuv=use_libuv,
    ):
        with socket.create_connection(("127.0.0.1", free_port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", free_port), timeout=5)


STRANGERS: dict[str, bytes] = {
    "who says nothing": b"",
    "who speaks HTTP": b"GET / HTTP/1.1\r\nHost: barrier\r\n\r\n",
    "who sends noise": bytes(range(256)) * 64,
    "who knows the greeting but no request": b"\x00\xce\xf7\x85\x3c\xff",
    "who announces a key without end": b"\x00\xce\xf7\x85\x3c\x01" + b"\xff" * 8,
}


@pytest.mark.parametrize("words", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_stranger_at_the_port_does_no_harm(
    ranks: RankProcesses, new_job: NewJob, own_port: int, words: bytes
) -> None:
    job = new_job(agent_port=own_port)
    ranks.run_all(join, job)
    with socket.create_connection(("127.0.0.1", own_port)) as stranger:
        stranger.sendall(words)
        ranks.run_all(go_through, job, 50)
        client_of(job).close()  # those who come later are served, too
    ranks.run_all(go_through, job, 50)
    ranks.run_all(close, job)


def test_ranks_that_start_before_the_host_wait_for_it(
    ranks: RankProcesses, hosted_job: Job
) -> None:
    calls = ranks.start_all(join, hosted_job, ranks=[1, 2, 3])
    ranks.run(0, join, hosted_job)
    for call in calls:
        call.result()
    ranks.run_all(arrive, hosted_job)
