"""A store whose answers are all slow, or that freezes half-way: a wait ends in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from barrier_core.errors import BarrierConnectionError, BarrierFailedError, BarrierSetupError
from barrier_core.testing.rank_processes import wait_until
from plugins.tcp_store.tests.rank_functions import Job, pretend_old_server

ANSWER_SECS = 6.0
SLACK_SECS = 4.0
"""For a busy machine."""


class SlowProxy:
    """Passes everything on between clients and a store; answers come late, or no more.

    Args:
        port: The store's port.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        self.delay_secs = 0.0
        self.answers_left: int | None = None
        """So many more pieces of answers are passed on; None: all."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                store = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, store]
                for source, sink, late in ((client, store, False), (store, client, True)):
                    arguments = (source, sink, late)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, late: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                if late:
                    time.sleep(self.delay_secs)
                    if self.answers_left is not None:
                        if self.answers_left == 0:
                            continue
                        self.answers_left -= 1
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End all connections."""
        for each in (self._server, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def proxy(libuv_port: int) -> Iterator[SlowProxy]:
    proxy = SlowProxy(libuv_port)
    yield proxy
    proxy.close()


@pytest.fixture(params=[True, False], ids=["counting", "polling"])
def slow_job(request: pytest.FixtureRequest, proxy: SlowProxy) -> Job:
    """A barrier of two ranks behind the proxy: this process, and one that never comes."""
    return Job(
        f"slow-{request.node.name}",
        world_size=2,
        agent_port=proxy.port,
        can_count=request.param,
        options={"heartbeat_secs": 0.0},
    )


@pytest.mark.parametrize("answers_left", [None, 0, 1, 2, 3])
def test_a_wait_ends_in_time_however_slow_the_answers_are(
    proxy: SlowProxy, slow_job: Job, answers_left: int | None
) -> None:
    with pretend_old_server(slow_job):
        barrier = slow_job.make(0)
    if answers_left is None:
        proxy.delay_secs = 2.7

    def freeze_in_the_settlement() -> None:
        wait_until(lambda: barrier._client.answer_by < time.monotonic() + 60, "it settles", 20)
        proxy.answers_left = answers_left

    freezing = threading.Thread(target=freeze_in_the_settlement, daemon=True)
    if answers_left is not None:
        freezing.start()
    started = time.monotonic()

    with pytest.raises(BarrierFailedError) as failed:
        barrier.execute_barrier(timeout_secs=2)

    assert time.monotonic() - started < 2 + ANSWER_SECS + SLACK_SECS
    if answers_left is None:
        assert isinstance(failed.value, BarrierConnectionError)
    closing = time.monotonic()
    barrier.close()
    assert time.monotonic() - closing < ANSWER_SECS + SLACK_SECS
    if answers_left is not None:
        freezing.join()


@pytest.mark.parametrize("frozen", [False, True])
def test_set_up_ends_in_time_however_slow_the_answers_are(own_port: int, frozen: bool) -> None:
    # The first rank that comes to a server asks more than any other.
    with closing(SlowProxy(own_port)) as proxy:
        job = Job("slow", world_size=2, agent_port=proxy.port, options={"heartbeat_secs": 0.0})
        proxy.delay_secs = 2.7
        if frozen:
            proxy.answers_left = 3
        started = time.monotonic()

        with pytest.raises(BarrierSetupError):
            job.make(0, timeout_barrier_init_secs=5.0)

        assert time.monotonic() - started < 5 + ANSWER_SECS + SLACK_SECS
