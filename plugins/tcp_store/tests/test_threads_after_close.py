"""No thread of a barrier is alive once it is closed, whatever its store does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from barrier_core.testing.rank_processes import wait_until
from barrier_tcp_store import TCPStoreBarrier
from barrier_tcp_store.hosting import Endpoint
from plugins.tcp_store.tests.conftest import NewJob, StoreProcess


@pytest.fixture(autouse=True)
def _leaving_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have closing wait for its own answers less than the second thread waits for those it needs.

    So that thread is found if it is left to itself.
    """
    monkeypatch.setattr("barrier_core.agreement.barrier.ANSWER_SECS", 1.0)
    monkeypatch.setattr("barrier_core.agreement.barrier._STOP_SECS", 0.1)


def waits_in_vain(barrier: TCPStoreBarrier) -> None:
    """Return once the second thread has been waiting for an answer for a while."""
    wait_until(lambda: barrier._watcher.silent_secs() > 0.2, "the second thread waits", 20)


@contextmanager
def closing_ends_threads() -> Iterator[None]:
    """Fail if there is a thread in the end that was not there before."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) - before == set()


def test_none_is_left_where_the_server_is_frozen(
    store_process: StoreProcess, new_job: NewJob
) -> None:
    with closing_ends_threads():
        barrier = new_job(heartbeat_secs=0.1).make(0)
        store_process.stop()
        try:
            waits_in_vain(barrier)
            barrier.close()
        finally:
            store_process.cont()


def test_none_is_left_that_is_about_to_connect_to_a_frozen_server(
    store_process: StoreProcess, new_job: NewJob
) -> None:
    with closing_ends_threads():
        barrier = new_job(heartbeat_secs=0).make(0)
        store_process.stop()
        try:
            barrier.report_progress("shard 1")
            waits_in_vain(barrier)
            barrier.close()
        finally:
            store_process.cont()


def test_none_is_left_where_packets_are_dropped(new_job: NewJob) -> None:
    with ExitStack() as stack:
        # The kernel drops what would connect to it: nobody accepts, and no more may wait for that.
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(closing_ends_threads())
        barrier = new_job(heartbeat_secs=0).make(0)
        barrier._store._endpoint = Endpoint("127.0.0.1", port)  # type: ignore[attr-defined]
        barrier.report_progress("shard 1")
        waits_in_vain(barrier)
        barrier.close()


def test_none_is_left_where_the_server_is_gone(
    store_process: StoreProcess, new_job: NewJob
) -> None:
    port = store_process.serve(use_libuv=True)
    with closing_ends_threads():
        barrier = new_job(agent_port=port, heartbeat_secs=0.1).make(0)
        store_process.end(port)
        waits_in_vain(barrier)
        barrier.close()
