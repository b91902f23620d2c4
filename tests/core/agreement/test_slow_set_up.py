"""A set-up that takes long says whom it waits for, on any store, and then says nothing more."""

from __future__ import annotations

import re
import threading
import time

import pytest

from barrier_core.agreement.setting_up import SettingUp
from barrier_core.agreement.store import Joining, StoreAccess, StoreClient
from barrier_core.backends.local import STORE, LocalClient
from tests.support.injected_stores import FOLLOWING, InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving, wait_until

WARN_SECS = 0.05


class SilentUntilTold(InjectedAccess):
    """A store that answers one kind of call only when it is told to; as any backend may have it."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.answers = threading.Event()
        self._call: str = call

    def before(self, call: StoreCall) -> None:
        if call.name == self._call:
            assert self.answers.wait(20)


@pytest.mark.parametrize("call", ["connect", "create"])
def test_a_set_up_in_which_the_store_does_not_answer_says_so_at_doubling_intervals(
    job: LocalJob, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    store = SilentUntilTold(call)
    joining = Ranks(lambda: job.barrier(1, 2, store, warn_after_secs=WARN_SECS))

    wait_until(lambda: len(caplog.messages) == 3)

    said = rf"rank 1 has waited for 0 s to set up '{job.prefix}': no answer from the injected store"
    assert [message for message in caplog.messages if not re.fullmatch(said, message)] == []
    first, second, third = (record.created for record in caplog.records)
    assert third - second > second - first
    store.answers.set()
    joining.pass_()


def test_a_set_up_that_waits_for_rank_0_says_so(
    job: LocalJob, caplog: pytest.LogCaptureFixture
) -> None:
    joining = Ranks(lambda: job.barrier(1, 2, FOLLOWING, warn_after_secs=WARN_SECS))

    wait_until(lambda: caplog.messages)

    assert caplog.messages[0].endswith(
        f": a store answers, but rank 0 has not come to the barrier '{job.prefix}' of generation "
        "0.0"
    )
    job.barrier(0, 2, FOLLOWING)
    joining.pass_()


class SaysItself(StoreAccess):
    """A backend that knows what it waits for, and for how long."""

    set_up_secs = 7.5

    def open(self, joining: Joining) -> StoreClient:
        joining.still_waiting("the disk spins up")
        return super().open(joining)


def test_a_backend_can_say_what_it_waits_for(
    job: LocalJob, caplog: pytest.LogCaptureFixture
) -> None:
    silent = SilentUntilTold("connect")
    store = SaysItself("store on a disk", silent.connect)
    joining = Ranks(lambda: job.barrier(1, 2, store, warn_after_secs=WARN_SECS))

    wait_until(lambda: caplog.messages)

    assert caplog.messages[0].endswith(": the disk spins up; gives up after 7.5 s")
    silent.answers.set()
    joining.pass_()


def test_a_set_up_without_a_soft_limit_says_nothing(
    job: LocalJob, caplog: pytest.LogCaptureFixture
) -> None:
    store = SilentUntilTold("connect")
    joining = Ranks(
        lambda: job.barrier(0, 2, store, warn_after_secs=None),
        lambda: job.barrier(1, 2, store, warn_after_secs=WARN_SECS),
    )

    wait_until(lambda: len(caplog.messages) == 2)
    store.answers.set()
    joining.pass_()

    assert {message.partition(" has")[0] for message in caplog.messages} == {"rank 1"}


class SecondConnectionIsSlow(StoreAccess):
    """Set-up has little time, and the connection for the heartbeats takes long."""

    def __init__(self) -> None:
        super().__init__("slow store", self._connect)
        self.answers = threading.Event()
        self._connections = 0

    def open(self, joining: Joining) -> StoreClient:
        client = super().open(joining)
        client.answer_by = time.monotonic() + 0.2
        return client

    def _connect(self) -> StoreClient:
        self._connections += 1
        if self._connections > 1:
            assert self.answers.wait(20)
        return LocalClient(STORE)


def test_the_connection_for_the_heartbeats_does_not_make_set_up_longer(job: LocalJob) -> None:
    store = SecondConnectionIsSlow()
    barriers = [job.barrier(0, 2, store, heartbeat_secs=1), job.barrier(1, 2)]
    assert not store.answers.is_set()

    arriving(*barriers).pass_()
    store.answers.set()


@pytest.mark.parametrize("seconds", [WARN_SECS, 1e300])
def test_no_thread_is_left_of_a_set_up(seconds: float) -> None:
    before = threading.active_count()

    with SettingUp(0, "ckpt", seconds, 60.0, "nothing"):
        assert threading.active_count() == before + 1

    assert threading.active_count() == before
