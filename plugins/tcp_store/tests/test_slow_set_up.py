"""A set-up that waits for a TCPStore says where, for whom, and for how long; and why it waits."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from barrier_core.errors import BarrierSetupError
from barrier_core.testing import RankThreads
from barrier_core.testing.rank_processes import RankProcesses, wait_until
from plugins.tcp_store.tests.conftest import NewJob, StoreProcess
from plugins.tcp_store.tests.rank_functions import Job, close, join


def make_rank_1(job: Job) -> None:
    """Have rank 1 be set up in this process, and closed when that is done."""
    job.make(1, warn_after_secs=0.05).close()


@contextmanager
def rank_1_joins(job: Job) -> Iterator[None]:
    """Have rank 1 be set up in a thread of this process; it must be, in the end."""
    with RankThreads(1) as threads:
        call = threads.start(0, lambda _: make_rank_1(job))
        yield
        call.result(20)


def wait_for_line(caplog: pytest.LogCaptureFixture, about: str) -> str:
    """Wait until a line of the log tells of something; return it."""

    def told() -> list[str]:
        return [line for line in caplog.messages if about in line]

    wait_until(told, f"the log tells of {about!r}", 20)
    return told()[0]


def test_a_store_that_is_not_there_yet_is_waited_for_aloud(
    ranks: RankProcesses, hosted_job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    job = hosted_job.but(timeout_barrier_init_secs=90, linger_secs=0)
    with rank_1_joins(job):
        line = wait_for_line(caplog, "refused")
        ranks.run(0, join, job)
    assert re.fullmatch(
        r"rank 1 has waited for \d+ s to set up 'test-\d+': no answer from the TCP store at "
        rf"127\.0\.0\.1:{job.options['tcpstore_port']}, hosted by rank 0 \(Connection refused\); "
        "gives up after 90 s",
        line,
    )


def test_a_store_that_is_frozen_is_waited_for_aloud(
    store_process: StoreProcess, job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    store_process.stop()
    with rank_1_joins(job):
        try:
            line = wait_for_line(caplog, "rank 1")
        finally:
            store_process.cont()
    at = f"127.0.0.1:{job.agent_port}"
    assert line.endswith(f": no answer from the TCP store at {at}; gives up after 300 s")


def test_an_address_at_which_packets_are_dropped_is_waited_for_aloud(
    new_job: NewJob, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        # The kernel drops what would connect to it: nobody accepts, and no more may wait for that.
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        options = {"master_address": "127.0.0.1", "tcpstore_port": port}
        job = new_job(agent_port=None, timeout_barrier_init_secs=0.5, **options)
        with pytest.raises(BarrierSetupError, match="nobody answers"):
            make_rank_1(job)
    at = f"127.0.0.1:{port}, hosted by rank 0"
    assert caplog.messages[0].endswith(
        f": no answer from the TCP store at {at}; gives up after 0.5 s"
    )


def test_a_host_that_has_not_come_to_this_barrier_is_waited_for_aloud(
    ranks: RankProcesses, hosted_job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    job = hosted_job.but(linger_secs=0)
    ranks.run(0, join, job.but(prefix="another"))
    with rank_1_joins(job):
        line = wait_for_line(caplog, "a store answers")
        ranks.run(0, join, job)
    ranks.run(0, close, job.but(prefix="another"))
    assert f"rank 0 has not come to the barrier '{job.prefix}' of generation 0.0; gives up" in line
