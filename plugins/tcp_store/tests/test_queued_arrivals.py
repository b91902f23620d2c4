"""What lies in a queue of a frozen server, when its ranks have raised, releases nobody later."""

from __future__ import annotations

from contextlib import closing, suppress

import pytest

from barrier_core.agreement.round_log import parse
from barrier_core.errors import BarrierConnectionError, BrokenBarrierError
from barrier_core.testing import RankThreads
from barrier_core.testing.rank_processes import wait_until
from barrier_tcp_store import TCPStoreBarrier
from plugins.tcp_store.tests.conftest import NewJob, StoreProcess
from plugins.tcp_store.tests.looking import client_of, keys_of, wait_until_arrived


@pytest.fixture(autouse=True)
def _answers_are_awaited_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barrier_core.agreement.round.ANSWER_SECS", 0.3)


def arrive_as(rank: int, barriers: list[TCPStoreBarrier], timeout_secs: float) -> None:
    """Arrive as a rank of this process."""
    barriers[rank].execute_barrier(timeout_secs)


@pytest.mark.parametrize("server", ["libuv_port", "older_port"])
@pytest.mark.parametrize("freezes", ["before they arrive", "while they wait"])
def test_ranks_that_have_raised_release_no_late_rank(
    request: pytest.FixtureRequest,
    store_process: StoreProcess,
    new_job: NewJob,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    freezes: str,
) -> None:
    job = new_job(agent_port=request.getfixturevalue(server), heartbeat_secs=0)
    # Nor does that depend on what a second thread tells the others in time.
    monkeypatch.setattr("barrier_core.agreement.watcher.Watcher.tell", lambda *_: None)
    barriers = [job.make(rank) for rank in range(4)]
    with RankThreads(4) as ranks:
        for call in ranks.start_all(arrive_as, barriers, 20):
            call.result(30)
        try:
            if freezes == "before they arrive":
                store_process.stop()
            calls = ranks.start_all(arrive_as, barriers, 0.6, ranks=[0, 1, 2])
            if freezes == "while they wait":
                wait_until_arrived(job, [0, 1, 2], number=2)
                store_process.stop()
            errors = [call.error(20) for call in calls]
        finally:
            store_process.cont()
        assert {type(error) for error in errors} == {BarrierConnectionError}
        with closing(client_of(job)) as client, suppress(AssertionError, TimeoutError):
            log = keys_of(job).round(2, "").log

            def is_broken() -> bool:
                return parse(client.read([log])[0] or b"").broken_by is not None

            wait_until(is_broken, "the server has taken what it was sent", 5)

        late = ranks.start(3, arrive_as, barriers, 20).error(30)

    assert isinstance(late, BrokenBarrierError)
    assert "it has given up" in str(late)
    for barrier in barriers:
        barrier.close()
