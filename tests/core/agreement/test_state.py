"""What rounds leave behind in the store, and when it is removed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest

from barrier_core import BarrierSetupError, RankConflictError
from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.cleanup import BATCH_ROUNDS
from barrier_core.agreement.store import StoreClient
from barrier_core.agreement.watcher import Watcher
from barrier_core.backends.local import STORE, LocalClient
from tests.support.injected_stores import InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, Ranks, arriving, wait_until


class Interrupted(BaseException):
    """What a signal handler raises, like KeyboardInterrupt."""


def wait_until_removed(key: str) -> None:
    wait_until(lambda: key not in STORE.values)


def test_the_store_holds_no_more_after_many_rounds_and_nothing_in_the_end(job: LocalJob) -> None:
    barriers = job.barriers(2)
    most = 0

    def go(barrier: StoreBarrier) -> None:
        nonlocal most
        for number in range(1, 3001):
            barrier.execute_barrier()
            if barrier is barriers[0] and number % 100 == 0:
                # Removal is behind, by a batch and by how slow the watcher's thread is.
                wait_until(lambda: len(job.stored) < 3 * BATCH_ROUNDS)
                most = max(most, len(job.stored))

    Ranks(*[lambda barrier=b: go(barrier) for b in barriers]).pass_()

    assert most > BATCH_ROUNDS, "what is looked at is not what the rounds leave"
    job.close()
    assert job.stored == []


def test_nothing_is_left_however_far_behind_the_removal_is(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "remove", lambda *_: None)  # it never comes to it
    barrier = job.barrier(0, 1)

    for _ in range(20 * BATCH_ROUNDS):
        barrier.execute_barrier()

    barrier.close()
    assert job.stored == []


def test_rounds_that_pass_although_they_are_interrupted_leave_nothing_either(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = job.barrier(0, 1)

    def interrupt(line: StoreClient) -> bool:
        raise Interrupted("all have arrived")

    monkeypatch.setattr(LocalClient, "wait_briefly", interrupt)
    for number in range(1, 3 * BATCH_ROUNDS + 1):
        with pytest.raises(Interrupted):
            barrier.execute_barrier()
        assert barrier.round == number
    assert barrier.failed is None

    wait_until_removed(job.keys.round(2 * BATCH_ROUNDS - 1, "").log)
    assert len(job.stored) < 3 * BATCH_ROUNDS


def test_nothing_is_left_after_failures(job: LocalJob) -> None:
    for number in range(10):
        barriers = job.barriers(3)
        arriving(*barriers).pass_()
        barriers[number % 3].abort("again")
        ranks = Ranks(*[lambda b=b: b.execute_barrier(tag=str(b.round)) for b in barriers])
        assert ranks.verdict().round == 2
        job.close()
        assert job.stored == []


def test_a_generation_that_was_never_closed_is_removed_by_the_next_but_one(job: LocalJob) -> None:
    for number in range(5):
        barriers = job.barriers(2, generation=str(number))
        arriving(*barriers).pass_()
        barriers[0].abort("as if it were killed")
        generations = {key.split("/")[3] for key in job.stored} - {"generations"}
        assert len(generations) == min(number + 1, 2)


def test_the_keys_of_the_round_just_passed_stay(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("barrier_core.agreement.cleanup.BATCH_ROUNDS", 1)  # after every round
    barriers = job.barriers(2)

    for number in range(1, 6):
        arriving(*barriers).pass_()
        wait_until_removed(job.keys.round(number - 1, "").log)
        assert job.log(number)


def generations(job: LocalJob) -> set[str]:
    return {key.split("/")[3] for key in job.stored} - {"generations"}


def pass_and_close(job: LocalJob, generation: str) -> None:
    """Make all of three ranks, go through a round, and leave."""
    arriving(*job.barriers(3, generation=generation)).pass_()
    job.close()


def test_generations_that_rank_0_never_joined_are_removed(job: LocalJob) -> None:
    for number in range(10):
        job.barrier(1, 3, generation=str(number)).close()
        assert len(generations(job)) <= 2

    pass_and_close(job, "10")

    assert job.stored == []


def test_a_rank_that_was_refused_leaves_nothing_that_stays(job: LocalJob) -> None:
    for number in range(4):
        barrier = job.barrier(1, 3, generation=str(number))
        with pytest.raises(RankConflictError):
            job.barrier(0, 4, generation=str(number))
        barrier.close()
        assert len(generations(job)) <= 2

    pass_and_close(job, "4")

    assert job.stored == []


class LosesTheStoreAt(InjectedAccess):
    """Loses the store before its n-th call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def before(self, call: StoreCall) -> None:
        self.left -= 1
        self.is_lost = self.left < 0


def test_a_set_up_that_fails_at_any_call_leaves_nothing_that_stays(job: LocalJob) -> None:
    for call in range(100):
        for before in range(3):
            job.barrier(1, 3, generation=f"{call}-{before}").close()
        has_failed = False
        try:
            job.barrier(1, 3, LosesTheStoreAt(call), generation=f"{call}")
        except BarrierSetupError:
            has_failed = True
        pass_and_close(job, f"{call}-last")
        # Nobody can tell that a process has failed in there that lives on, and is here as well.
        assert len(generations(job)) <= 1
        if not has_failed:
            break
    assert 5 < call < 99


def test_a_generation_that_is_in_use_stays_when_a_later_one_is_left(job: LocalJob) -> None:
    barriers = job.barriers(3, generation="0")
    arriving(*barriers).pass_()

    later = job.barriers(3, generation="1")
    arriving(*later).pass_()
    for barrier in later:
        barrier.close()

    arriving(*barriers).pass_()
    job.close()
    assert job.stored == []


class Meets(InjectedAccess):
    """Has something else happen before its n-th call."""

    def __init__(self, call: int, happen: Callable[[], object]) -> None:
        super().__init__()
        self._left = call
        self._happen = happen

    def before(self, call: StoreCall) -> None:
        self._left -= 1
        if self._left == -1:
            self._happen()

    @property
    def has_happened(self) -> bool:
        return self._left < 0


def test_whenever_the_last_rank_leaves_a_rank_that_joins_the_next_generation_is_found(
    job: LocalJob,
) -> None:
    for call in range(100):
        barriers = job.barriers(2, generation=f"{call}")
        barriers[0].close()
        meets = Meets(call, barriers[1].close)

        job.barrier(1, 2, meets, generation=f"{call}-next")

        listed = STORE.values[job.keys.generations].decode().split()
        assert quote(f"{call}-next.0") in listed
        job.close()
        if not meets.has_happened:
            break
    assert 5 < call < 99

    pass_and_close(job, "last")
    assert job.stored == []


def test_a_rank_that_joins_a_generation_that_is_over_is_told_so_and_leaves_nothing(
    job: LocalJob,
) -> None:
    refused = []
    for call in range(100):
        job.barrier(1, 3, generation=f"{call}").close()
        meets = Meets(call, partial(pass_and_close, job, f"{call}-next"))
        try:
            job.barrier(2, 3, meets, generation=f"{call}").close()
        except BarrierSetupError as error:
            refused.append(str(error))
        pass_and_close(job, f"{call}-last")
        assert job.stored == []
        if not meets.has_happened:
            break
    assert 5 < call < 99
    assert refused
    assert all("was over when rank 2 joined it; start all" in each for each in refused)
