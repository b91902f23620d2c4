"""The client by itself: at torch's servers, and at one that answers late or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from msgspec.structs import astuple

from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.keys import Keys
from barrier_core.testing.rank_processes import RankProcesses
from barrier_tcp_store.wire import TCPStoreClient
from plugins.tcp_store.tests.client_operations import OPERATIONS, of_rank
from plugins.tcp_store.tests.looking import soon

Connect = Callable[[], TCPStoreClient]
LOG, RELEASE = astuple(Keys("ckpt", "0").round(1, ""))


@pytest.fixture(params=["libuv", "older"])
def port(request: pytest.FixtureRequest) -> int:
    """Port of each of torch's servers."""
    value: int = request.getfixturevalue(f"{request.param}_port")
    return value


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
    """Opens clients whose keys are this test's own."""
    clients: list[TCPStoreClient] = []
    namespace = f"wire-{os.urandom(4).hex()}/"

    def connect() -> TCPStoreClient:
        clients.append(TCPStoreClient("127.0.0.1", port, namespace=namespace))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def test_values_come_back_as_they_were_put(connect: Connect) -> None:
    client = connect()
    large = os.urandom(200_000)
    client.write("large", large)
    client.append("log", b"one ")
    client.append("log", b"two")
    client.write("empty", b"")
    assert client.read(["large", "missing", "log", "large", "empty"]) == [
        large,
        None,
        b"one two",
        large,
        b"",
    ]


def test_many_large_values_are_read_and_written_at_once(connect: Connect) -> None:
    client, other = connect(), connect()
    values = {f"value-{number}": os.urandom(200_000) for number in range(20)}
    for key, value in values.items():
        client.write(key, value)
    client.read(["fence"])
    assert other.read(list(values)) == list(values.values())
    other.remove(values)
    assert client.read(list(values)) == [None] * len(values)


def test_only_the_first_to_create_a_key_sets_it(connect: Connect) -> None:
    client, other = connect(), connect()
    assert client.create("key", b"mine") == b"mine"
    assert other.create("key", b"theirs") == b"mine"
    client.remove(["key"])
    assert other.create("key", b"theirs") == b"theirs"


def test_a_namespace_keeps_keys_apart(port: int) -> None:
    with (
        closing(TCPStoreClient("127.0.0.1", port, namespace="left/")) as left,
        closing(TCPStoreClient("127.0.0.1", port, namespace="right/")) as right,
    ):
        left.write("key", b"left")
        left.read(["fence"])
        assert right.read(["key"]) == [None]


def has_arrivals(client: TCPStoreClient) -> bool:
    """Whether the log has both arrivals; in any order, as each went its own way to the server."""
    return client.read([LOG]) in ([b"A0\nA1\n"], [b"A1\nA0\n"])


def test_all_are_released_when_all_have_been_counted_in(connect: Connect) -> None:
    first, second = connect(), connect()
    first.arrive(of_rank(0), 1)
    assert not first.wait(0.01)
    second.arrive(of_rank(1), 1)
    assert first.wait(5)
    assert second.wait(5)
    assert has_arrivals(first)


def test_every_round_has_a_log_and_a_release_signal_of_its_own_for_each_tag(
    connect: Connect,
) -> None:
    first, second, watcher = connect(), connect(), connect()
    for number, tag in ((9, "a"), (10, "a"), (10**11, "b/c"), (11, "")):
        keys = Keys("ckpt", "0").round(number, tag)
        first.arrive(of_rank(0, tag), number)
        assert not first.wait(0.01)
        second.arrive(of_rank(1, "another"), number)
        assert not second.wait(0.01)  # it is counted elsewhere
        assert not second.withdraw()
        first.remove([keys.release])
        assert not first.withdraw()
        first.arrive(of_rank(0, tag), number)
        second.arrive(of_rank(1, tag), number)
        assert first.wait(5)
        assert second.wait(5)
        records = (watcher.read([keys.log])[0] or b"").splitlines()
        assert len(records) == 4
        assert of_rank(1, tag).record.rstrip() in records
        watcher.remove([keys.log, keys.release])
        assert watcher.read([keys.log]) == [None]


def test_after_a_removal_all_have_to_be_counted_in_again(connect: Connect) -> None:
    first, second = connect(), connect()
    first.arrive(of_rank(0), 1)
    assert not first.withdraw()
    first.remove([RELEASE])
    second.arrive(of_rank(1), 1)
    assert not second.wait(0.05)
    assert not second.withdraw()


def test_withdrawing_tells_whether_the_release_signal_had_come(connect: Connect) -> None:
    first, second = connect(), connect()
    first.arrive(of_rank(0), 1)
    second.arrive(of_rank(1), 1)
    assert second.wait(5)
    assert first.withdraw()  # it had not looked
    assert not first.withdraw()  # and there is nothing to withdraw from any more
    assert has_arrivals(first)


def test_a_wake_ends_the_next_wait_or_the_one_under_way(connect: Connect) -> None:
    client = connect()
    client.arrive(of_rank(0), 1)
    client.wake()
    with soon():
        assert not client.wait(60)
    # Only one: the wait after it lasts as long as it is told.
    assert not client.wait(0.01)
    timer = threading.Timer(0.05, client.wake)
    timer.start()
    with soon():
        assert not client.wait(60)
    timer.join()
    assert not client.withdraw()


def test_a_brief_wait_ends_with_the_release_signal(connect: Connect) -> None:
    first, second = connect(), connect()
    first.arrive(of_rank(0), 1)
    assert not first.wait_briefly()
    second.arrive(of_rank(1), 1)
    assert second.wait_briefly()
    assert first.wait(5)
    assert not first.withdraw()


def test_a_wake_during_a_brief_wait_ends_the_next_one(connect: Connect) -> None:
    client = connect()
    client.arrive(of_rank(0), 1)
    waker = threading.Timer(0.05, client.wake)
    waker.start()
    with soon():
        assert not client.wait_briefly()
        assert not client.wait(60)
    waker.join()


def test_signals_do_not_prolong_a_brief_wait(connect: Connect) -> None:
    client = connect()
    client.arrive(of_rank(0), 1)
    received: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    over = threading.Event()

    def send_signals() -> None:
        while not over.wait(0.02):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=send_signals)
    thread.start()
    try:
        with soon():
            assert not client.wait_briefly()
        assert received
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, former)


def test_more_wakes_than_a_pipe_holds_do_not_block(connect: Connect) -> None:
    client = connect()
    with soon():
        for _ in range(100_000):
            client.wake()
        assert not client.wait(60)


class InterruptError(Exception):
    """What the tests' signal handler raises."""


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Have SIGUSR1 raise `InterruptError` in the main thread: as Ctrl-C, but harmless."""

    def handle(number: int, frame: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_ends_a_wait_and_leaves_the_line_in_step(connect: Connect) -> None:
    client, other = connect(), connect()
    client.arrive(of_rank(0), 1)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    with interrupted_by_signals(), soon():
        timer.start()
        with pytest.raises(InterruptError):
            client.wait(60)
        timer.join()
    assert not client.withdraw()
    assert client.read([LOG, "missing"]) == [b"A0\n", None]
    # It was counted in: with one more, two are counted in.
    other.arrive(of_rank(1), 1)
    assert other.wait(5)


@pytest.mark.parametrize("moment", ["before the request is out", "when it is out"])
def test_an_arrival_that_is_interrupted_is_withdrawn_correctly(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    client, other = connect(), connect()
    send = TCPStoreClient._send

    def send_and_be_interrupted(self: TCPStoreClient, request: bytes) -> None:
        if moment == "when it is out":
            send(self, request)
        raise InterruptError

    with monkeypatch.context() as patch:
        patch.setattr(TCPStoreClient, "_send", send_and_be_interrupted)
        with pytest.raises(InterruptError):
            client.arrive(of_rank(0), 1)
    assert not client.withdraw()
    assert client.read([LOG]) == [b"A0\n" if moment == "when it is out" else None]
    client.remove([RELEASE])
    other.arrive(of_rank(1), 1)
    assert not other.wait(0.05)
    assert not other.withdraw()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_line_whose_question_was_interrupted_answers_no_other(
    connect: Connect, operation: Callable[[TCPStoreClient], Any]
) -> None:
    client = connect()
    receive = TCPStoreClient._receive

    def receive_and_be_interrupted(self: TCPStoreClient, size: int) -> bytes:
        raise InterruptError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TCPStoreClient, "_receive", receive_and_be_interrupted)
        with pytest.raises(InterruptError):
            client.create("asked", b"an answer to nobody")
    assert TCPStoreClient._receive is receive
    with pytest.raises(StoreLostError):
        operation(client)


def test_torchs_servers_can_count(connect: Connect) -> None:
    client = connect()
    assert client.probe_counting("scratch")
    assert client.read(["scratch"]) == [None]


def test_the_first_wait_costs_no_processor_time(ranks: RankProcesses, libuv_port: int) -> None:
    assert ranks.run(0, wait_and_measure, libuv_port) < 0.1


def wait_and_measure(rank: int, port: int) -> float:
    """Wait half a second; return the processor time that took, in seconds."""
    with closing(TCPStoreClient("127.0.0.1", port, namespace="idle/")) as client:
        client.arrive(of_rank(0), 1)
        before = time.process_time()
        client.wait(0.5)
        return time.process_time() - before


def test_importing_the_plugin_does_not_import_torch() -> None:
    code = "import sys, barrier_tcp_store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
