"""A store whose answers are all slow, or that freezes half-way: a wait ends in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from barrier_core.errors import BarrierConnectionError, BarrierFailedError, BarrierSetupError
from barrier_core.testing.rank_processes import wait_until
from plugins.tcp_store.tests.rank_functions import Job, pretend_old_server
from tests.support.slow_proxy import SlowProxy

ANSWER_SECS = 6.0
SLACK_SECS = 4.0
"""For a busy machine."""


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
