"""The client at a server that answers late, in pieces, or not at all."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from barrier_core.agreement.foreign import StoreLostError
from barrier_core.testing.rank_processes import wait_until
from barrier_tcp_store.wire import TCPStoreClient
from plugins.tcp_store.tests.client_operations import OPERATIONS, of_rank
from plugins.tcp_store.tests.looking import soon

Connect = Callable[[], TCPStoreClient]


@contextmanager
def silent_server() -> Iterator[tuple[int, Callable[[bytes], None]]]:
    """A server that knows the greeting and nothing else; yields what makes it say something."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients: list[socket.socket] = []

        def serve() -> None:
            client, _ = server.accept()
            greeting = client.recv(10)
            client.sendall(greeting[-4:])
            clients.append(client)

        thread = threading.Thread(target=serve)
        thread.start()

        def say(words: bytes) -> None:
            wait_until(lambda: clients, "the client has connected", 5)
            clients[0].sendall(words)

        yield server.getsockname()[1], say
        thread.join()
        for client in clients:
            client.close()


def text(data: bytes) -> bytes:
    """Frame a value as the server does."""
    return struct.pack("=Q", len(data)) + data


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_after_a_missed_answer_the_line_is_lost_for_good(
    operation: Callable[[TCPStoreClient], Any],
) -> None:
    with silent_server() as (port, say):
        client = TCPStoreClient("127.0.0.1", port, patience_secs=5)
        client.answer_secs = 0.1
        with pytest.raises(StoreLostError, match=r"no answer for 0\.1 s"):
            client.create("slow", b"value")
        with suppress(ConnectionError):  # it may see by then that the connection is closed
            say(text(b"the answer to the first question"))
        for _ in range(2):
            with pytest.raises(StoreLostError):
                operation(client)
        client.close()


def test_an_answer_in_pieces_is_put_together() -> None:
    with silent_server() as (port, say), closing(TCPStoreClient("127.0.0.1", port)) as client:

        def dribble() -> None:
            for piece in text(b"in pieces"):
                say(bytes([piece]))
                time.sleep(0.01)

        thread = threading.Thread(target=dribble)
        thread.start()
        assert client.create("key", b"value") == b"in pieces"
        thread.join()


def test_a_server_that_hangs_up_is_lost_at_once_while_waiting() -> None:
    with silent_server() as (port, say):
        client = TCPStoreClient("127.0.0.1", port)
        client.arrive(of_rank(0), 1)
        say(b"")
    with soon(), pytest.raises(StoreLostError, match=r"closed the connection|reset"):
        client.wait(60)
    client.close()


def test_a_server_that_cannot_count_is_told_from_one_that_is_silent() -> None:
    with silent_server() as (port, say):
        client = TCPStoreClient("127.0.0.1", port)
        say(b"")
    assert not client.probe_counting("scratch")
    client.close()
    with silent_server() as (port, _):
        client = TCPStoreClient("127.0.0.1", port)
        client.answer_secs = 0.1
        with pytest.raises(StoreLostError, match="no answer"):
            client.probe_counting("scratch")
        client.close()


def test_a_request_that_the_server_does_not_take_is_given_up_in_time() -> None:
    with silent_server() as (port, _):
        client = TCPStoreClient("127.0.0.1", port)
        client.answer_secs = 0.2
        with soon(), pytest.raises(StoreLostError, match=r"took no request for 0\.2 s"):
            client.write("large", bytes(50_000_000))
        client.close()
