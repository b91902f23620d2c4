"""``StoreBarrier.gather``: rank 0 gets what every rank brings to a round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import pytest

from barrier_core import BarrierConnectionError, BarrierTimeoutError, BarrierUsageError
from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.gathering import gather
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.store import ANSWER_SECS
from barrier_core.backends.local import STORE, LocalBarrier, LocalClient

WORLD_SIZE = 3


@pytest.fixture
def barriers(request: pytest.FixtureRequest) -> Iterator[list[LocalBarrier]]:
    barriers = [
        LocalBarrier(rank, WORLD_SIZE, request.node.name, timeout_secs=30)
        for rank in range(WORLD_SIZE)
    ]
    yield barriers
    for barrier in barriers:
        barrier.close()
    assert not [key for key in STORE.values if request.node.name in key and "gathered" in key]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WORLD_SIZE) as pool:
        yield pool


def test_rank_0_gets_what_every_rank_brings_in_the_order_of_ranks(
    barriers: list[LocalBarrier], pool: ThreadPoolExecutor
) -> None:
    brought = ["zero", "one\nline more, \u2603", ""]

    gathered = list(pool.map(LocalBarrier.gather, barriers, brought))

    assert gathered == [brought, [], []]


def test_gathering_again_and_again_mixes_nothing_up(
    barriers: list[LocalBarrier], pool: ThreadPoolExecutor
) -> None:
    def gather_often(barrier: LocalBarrier) -> list[list[str]]:
        rank = barrier.rank_info.global_rank
        gathered = []
        for number in range(50):
            gathered.append(barrier.gather(f"{number} of {rank}"))
            if number % 7 == 0:
                barrier.execute_barrier()
        return gathered

    by_rank_0, *_ = pool.map(gather_often, barriers)

    assert by_rank_0 == [[f"{number} of {rank}" for rank in range(3)] for number in range(50)]


def test_gathering_is_a_round_with_a_limit_and_a_tag(barriers: list[LocalBarrier]) -> None:
    with pytest.raises(BarrierTimeoutError, match="'figures'"):
        barriers[0].gather("mine", timeout_secs=0.1, tag="figures")


def test_who_comes_without_anything_is_named(
    barriers: list[LocalBarrier], pool: ThreadPoolExecutor
) -> None:
    calls: list[Future[object]] = [
        pool.submit(barriers[0].gather, "mine"),
        pool.submit(barriers[1].execute_barrier),
        pool.submit(barriers[2].execute_barrier),
    ]

    with pytest.raises(BarrierUsageError, match="ranks 1-2 brought nothing: all ranks must call"):
        calls[0].result(30)


def test_a_closed_barrier_gathers_nothing(barriers: list[LocalBarrier]) -> None:
    barriers[0].close()

    with pytest.raises(BarrierUsageError, match="closed"):
        barriers[0].gather("mine")


def test_a_store_that_is_lost_is_a_connection_error(
    barriers: list[LocalBarrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(self: LocalClient, key: str, record: bytes) -> None:
        raise StoreLostError("it burnt down")

    monkeypatch.setattr(LocalClient, "append", append)

    with pytest.raises(BarrierConnectionError, match="it burnt down"):
        barriers[0].gather("mine")


class NotesBounds(LocalClient):
    """Notes by when the last answer has to be there, at each question."""

    bounds: ClassVar[list[float]] = []

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        self.bounds.append(self.answer_by)
        return super().read(keys)

    def remove(self, keys: Iterable[str]) -> None:
        self.bounds.append(self.answer_by)
        super().remove(keys)


def test_all_answers_before_the_round_and_all_after_it_have_one_bound_each() -> None:
    before = time.monotonic()
    times = []

    def go_through() -> None:
        times.append(time.monotonic())

    keys = Keys("bounds", "0")
    gather(NotesBounds(STORE), keys, 1, 0, 1, "mine", go_through)

    after = time.monotonic()
    first, *rest = NotesBounds.bounds
    assert before + ANSWER_SECS <= first <= times[0] + ANSWER_SECS
    assert len(rest) == 2
    assert len(set(rest)) == 1
    assert times[0] + ANSWER_SECS <= rest[0] <= after + ANSWER_SECS
