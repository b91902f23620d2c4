"""What rounds leave behind in the store, and when it is removed."""

from __future__ import annotations

import pytest

from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.cleanup import BATCH_ROUNDS
from barrier_core.agreement.store import StoreClient
from barrier_core.agreement.watcher import Watcher
from barrier_core.backends.local import STORE, LocalClient
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
    assert job.stored == [f"barrier//{job.prefix}/generations"]


def test_nothing_is_left_however_far_behind_the_removal_is(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "remove", lambda *_: None)  # it never comes to it
    barrier = job.barrier(0, 1)

    for _ in range(20 * BATCH_ROUNDS):
        barrier.execute_barrier()

    barrier.close()
    assert job.stored == [f"barrier//{job.prefix}/generations"]


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
        assert job.stored == [f"barrier//{job.prefix}/generations"]


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
