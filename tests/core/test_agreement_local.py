"""The agreement engine on the in-process store: every guarantee, with threads for ranks."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from barrier_core import (
    Barrier,
    BarrierFailedError,
    BarrierSetupError,
    BarrierTimeoutError,
    BrokenBarrierError,
    RankConflictError,
    RankStatus,
    Verdict,
    hookimpl,
)
from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.cleanup import BATCH_ROUNDS
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.round_log import parse, passed
from barrier_core.agreement.store import BRIEF_SECS, Joining, StoreAccess, StoreClient
from barrier_core.agreement.watcher import Watcher
from barrier_core.backends.local import STORE, LocalBarrier, LocalClient
from barrier_core.hooks import plugin_manager

SHORT_SECS = 0.6  # a hard limit that is meant to pass


class PollingClient(LocalClient):
    """A client of a store that cannot block: waiting is asking again and again."""

    wait = StoreClient.wait
    wake = StoreClient.wake


class LateClient(LocalClient):
    """A client that learns that all have arrived only when its time is over."""

    def wait(self, timeout_secs: float) -> bool:
        log, world_size = self._waits_for
        wait_until(lambda: passed(STORE.values[log], world_size))
        time.sleep(timeout_secs)
        return False


class PollingBarrier(StoreBarrier):
    barrier_type = "polling"
    client_class: type[LocalClient] = PollingClient

    def access(self) -> StoreAccess:
        return StoreAccess("store that is asked", lambda: self.client_class(STORE))

    def __init__(
        self, global_rank: int, global_world_size: int, barrier_prefix: str, timeout_secs: float
    ) -> None:
        super().__init__(
            global_rank,
            global_world_size,
            store=self.access(),
            barrier_prefix=barrier_prefix,
            generation=None,
            timeout_secs=timeout_secs,
            warn_after_secs=None,
            heartbeat_secs=0.0,
            progress_extends_deadline=False,
        )


class LateBarrier(PollingBarrier):
    client_class = LateClient


class FollowingAccess(StoreAccess):
    """Its ranks wait for rank 0, as those of a store that rank 0 hosts do."""

    patience_secs = 20.0

    def __init__(self) -> None:
        super().__init__("store with a host", lambda: LocalClient(STORE))

    def open(self, joining: Joining) -> StoreClient:
        client = super().open(joining)
        if joining.rank != 0:
            joining.wait_for_host(client, time.monotonic() + self.patience_secs)
        return client


class FollowingBarrier(PollingBarrier):
    def access(self) -> StoreAccess:
        return FollowingAccess()


class Job:
    """The barriers of one test, under a prefix of its own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._opened: list[StoreBarrier] = []

    def barrier(
        self,
        rank: int,
        world_size: int,
        barrier_class: Callable[..., StoreBarrier] = LocalBarrier,
        **options: Any,
    ) -> StoreBarrier:
        options = {"barrier_prefix": self.prefix, "timeout_secs": 30.0, **options}
        barrier = barrier_class(rank, world_size, **options)
        self._opened.append(barrier)
        return barrier

    def barriers(self, world_size: int, **options: Any) -> list[StoreBarrier]:
        return [self.barrier(rank, world_size, **options) for rank in range(world_size)]

    @property
    def keys(self) -> list[str]:
        """What the store holds of this job."""
        return [key for key in list(STORE.values) if key.startswith(f"barrier/{self.prefix}/")]

    def close(self) -> None:
        for barrier in self._opened:
            barrier.close()


_NUMBERS = itertools.count()


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job(f"job{next(_NUMBERS)}x")
    yield job
    job.close()


class Ranks:
    """Threads that each do something as one rank; what came of it is kept."""

    def __init__(self, *bodies: Callable[[], object]) -> None:
        self._outcomes: list[BaseException | None] = [None] * len(bodies)
        self._threads = [
            threading.Thread(target=self._run, args=(number, body), daemon=True)
            for number, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            self._outcomes[number] = error

    def outcomes(self) -> list[BaseException | None]:
        """Wait for all; return what each raised."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a rank hangs"
        return self._outcomes

    def pass_(self) -> None:
        """Wait for all; none may have raised."""
        assert self.outcomes() == [None] * len(self._threads)

    def verdict(self) -> Verdict:
        """Wait for all; return the one verdict that all of them have raised."""
        verdicts = [verdict_of(error) for error in self.outcomes()]
        assert verdicts == verdicts[:1] * len(verdicts)
        return verdicts[0]


def arriving(*barriers: Barrier, **options: Any) -> Ranks:
    """All these ranks arrive at once."""
    return Ranks(*[lambda barrier=b: barrier.execute_barrier(**options) for b in barriers])


def verdict_of(error: BaseException | None) -> Verdict:
    assert isinstance(error, BarrierFailedError), repr(error)
    return error.verdict


def log_of(barrier: StoreBarrier, number: int) -> bytes:
    return STORE.values.get(barrier._keys.round(number, "").log, b"")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def wait_until_arrived(*barriers: StoreBarrier, number: int = 1) -> None:
    """Wait until the store knows that these ranks have come to a round."""
    ranks = {barrier.rank_info.global_rank for barrier in barriers}
    wait_until(
        lambda: ranks <= {arrival.rank for arrival in parse(log_of(barriers[0], number)).arrivals}
    )


def wait_until_removed(key: str) -> None:
    wait_until(lambda: key not in STORE.values)


@contextmanager
def observed_by(observer: object) -> Iterator[None]:
    plugin_manager.register(observer)
    try:
        yield
    finally:
        plugin_manager.unregister(observer)


EITHER_BARRIER = pytest.mark.parametrize("barrier_class", [LocalBarrier, PollingBarrier])


# Passing.


@EITHER_BARRIER
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_all_ranks_pass(job: Job, barrier_class: type[StoreBarrier], world_size: int) -> None:
    barriers = job.barriers(world_size, barrier_class=barrier_class)

    for _ in range(3):
        arriving(*barriers).pass_()

    assert [barrier.round for barrier in barriers] == [3] * world_size


def test_nobody_leaves_a_round_before_all_have_entered_it(job: Job) -> None:
    barriers = job.barriers(3)
    entered = [0, 0, 0]

    def go(rank: int) -> None:
        chance = random.Random(rank)
        for number in range(1, 2001):
            if chance.random() < 0.3:
                time.sleep(chance.choice([0, 0, 0, 1e-4]))  # let the others go first
            entered[rank] = number
            barriers[rank].execute_barrier()
            assert min(entered) >= number

    Ranks(*[lambda rank=r: go(rank) for r in range(3)]).pass_()


def test_barriers_whose_names_and_numbers_look_alike_never_meet(job: Job) -> None:
    barriers = job.barriers(2)
    alike = job.barrier(0, 2, barrier_prefix=f"{job.prefix}1", timeout_secs=SHORT_SECS)

    for _ in range(11):
        arriving(*barriers).pass_()

    with pytest.raises(BarrierTimeoutError):  # not released by round 11 of the other
        alike.execute_barrier()


ROUNDS = st.tuples(st.text(max_size=4), st.sampled_from(["0", "0.1", "1/2"]), st.integers(0, 99))


@given(ROUNDS, ROUNDS, st.text("/1a%", max_size=3), st.text("/1a%", max_size=3))
def test_no_two_rounds_share_a_key(
    one: tuple[str, str, int], other: tuple[str, str, int], tag: str, other_tag: str
) -> None:
    def keys(prefix: str, generation: str, number: int, tag: str) -> set[str]:
        found = Keys(prefix, generation)
        whole = {found.verdict, found.alarm, found.passed, found.job, found.left, found.cleaned_up}
        return {
            *astuple(found.round(number, tag)),
            *whole,
            found.member(number),
            found.heartbeat(number),
        }

    mine, theirs = keys(*one, tag), keys(*other, other_tag)

    assert len(mine) == 10
    if one[:2] != other[:2]:
        assert not mine & theirs
    elif one[2] != other[2]:
        assert not set(astuple(Keys(*one[:2]).round(one[2], tag))) & theirs


def test_a_rank_that_gives_up_too_late_passes_like_the_others(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "attend", lambda *_: None)  # it would see that all have arrived
    late = job.barrier(0, 2, barrier_class=LateBarrier, timeout_secs=0.1)
    barriers = [late, job.barrier(1, 2)]

    for number in (1, 2):
        arriving(*barriers).pass_()
        log = parse(log_of(late, number))
        assert log.broken_by is not None
        assert log.broken_by.kind == "timeout"
        assert STORE.values[late._keys.passed] == b"%d" % number


# Failing: one verdict.


@EITHER_BARRIER
def test_a_timeout_is_one_verdict_for_all_the_late_rank_included(
    job: Job, barrier_class: type[StoreBarrier]
) -> None:
    barriers = job.barriers(3, barrier_class=barrier_class, timeout_secs=SHORT_SECS)

    verdict = arriving(*barriers[:2]).verdict()

    assert (verdict.kind, verdict.round) == ("timeout", 1)
    assert [status.rank for status in verdict.missing] == [2]
    assert verdict.missing[0].pid == os.getpid()
    with pytest.raises(BarrierTimeoutError) as late:
        barriers[2].execute_barrier()
    assert late.value.verdict == verdict


def test_a_limit_shorter_than_a_brief_wait_does_not_begin_with_one(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(self: StoreClient) -> bool:
        raise AssertionError("this wait is longer than the limit")

    barrier = job.barriers(2)[0]
    monkeypatch.setattr(StoreClient, "wait_briefly", too_long)

    with pytest.raises(BarrierTimeoutError):
        barrier.execute_barrier(timeout_secs=0.9 * BRIEF_SECS)


def test_a_broken_barrier_raises_its_verdict_again_and_a_retry_never_counts(job: Job) -> None:
    barriers = job.barriers(2, timeout_secs=SHORT_SECS)
    verdict = arriving(barriers[0]).verdict()
    log = log_of(barriers[0], 1)

    for barrier in (*barriers, *barriers):
        with pytest.raises(BarrierTimeoutError) as again:
            barrier.execute_barrier()
        assert again.value.verdict == verdict

    assert parse(log_of(barriers[0], 1)) == parse(log)
    assert [barrier.round for barrier in barriers] == [1, 1]
    assert not log_of(barriers[0], 2)


def test_a_wall_clock_that_jumps_moves_no_deadline(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle([-86_400.0, 0.0, 86_400.0])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    barrier = job.barrier(0, 2, timeout_secs=SHORT_SECS)
    started = time.monotonic()

    verdict = arriving(barrier).verdict()

    assert verdict.kind == "timeout"
    assert SHORT_SECS <= time.monotonic() - started < 10


@EITHER_BARRIER
def test_a_waiting_rank_is_aborted_by_another_of_its_threads(
    job: Job, barrier_class: type[StoreBarrier]
) -> None:
    barriers = job.barriers(3, barrier_class=barrier_class)
    ranks = arriving(*barriers[:2])
    wait_until_arrived(*barriers[:2])

    barriers[0].abort("disk full on /ckpt")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 0, "disk full on /ckpt")
    assert [status.rank for status in verdict.missing] == [2]
    with pytest.raises(BrokenBarrierError) as late:
        barriers[2].execute_barrier()
    assert late.value.verdict == verdict


def test_a_rank_that_has_not_arrived_aborts_the_round_that_others_wait_in(job: Job) -> None:
    barriers = job.barriers(3)
    arriving(*barriers).pass_()
    ranks = arriving(*barriers[:2])
    wait_until_arrived(*barriers[:2], number=2)

    barriers[2].abort("disk full")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.round, verdict.rank) == ("abort", 2, 2)
    with pytest.raises(BrokenBarrierError) as own:
        barriers[2].execute_barrier()
    assert own.value.verdict == verdict


def test_an_abort_before_anybody_has_arrived_breaks_the_next_round(job: Job) -> None:
    barriers = job.barriers(2)

    barriers[1].abort("no data")
    barriers[1].abort("said before")

    assert arriving(*barriers).verdict().reason == "no data"


def test_two_ranks_that_abort_at_once_are_one_verdict(job: Job) -> None:
    for _ in range(8):
        barriers = job.barriers(3)
        ranks = arriving(barriers[2])
        Ranks(*[lambda barrier=b: barrier.abort("me") for b in barriers[:2]]).pass_()

        verdict = ranks.verdict()
        assert arriving(*barriers).verdict() == verdict
        job.close()


def test_leaving_a_phase_by_an_exception_aborts_the_round(job: Job) -> None:
    barriers = job.barriers(2)

    def save(rank: int) -> None:
        with barriers[rank].phase("save"):
            if rank == 1:
                raise OSError("disk full")

    healthy, failing = Ranks(lambda: save(0), lambda: save(1)).outcomes()

    assert isinstance(failing, OSError)
    verdict = verdict_of(healthy)
    assert (verdict.kind, verdict.rank) == ("abort", 1)
    assert verdict.reason == "OSError: disk full in phase 'save'"
    assert arriving(barriers[1]).verdict() == verdict


def test_ranks_with_different_tags_are_told_so(job: Job) -> None:
    barriers = job.barriers(3)
    tags = ["save step=1", "save step=2\n", "save step=1"]

    verdict = Ranks(
        *[lambda b=b, t=t: b.execute_barrier(tag=t) for b, t in zip(barriers, tags, strict=True)]
    ).verdict()

    assert verdict.kind == "mismatch"
    assert verdict.tags == {"save step=1": "0, 2", "save step=2\n": "1"}


def test_an_abort_by_a_signal_that_strikes_as_a_round_begins_or_ends_breaks_the_next(
    job: Job,
) -> None:
    barriers = job.barriers(2)

    del barriers[0]._turn[0]  # where the signal handler strikes
    barriers[0].abort("preempted")
    barriers[0]._turn.append(None)

    verdict = arriving(*barriers).verdict()
    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 0, "preempted")


def test_a_rank_that_has_closed_its_barrier_is_reported(job: Job) -> None:
    barriers = job.barriers(3)
    ranks = arriving(*barriers[:2])

    barriers[2].close()

    verdict = ranks.verdict()
    assert verdict.kind == "dead"
    assert [(status.rank, status.detail) for status in verdict.missing] == [
        (2, "has closed its barrier")
    ]


class Interrupted(BaseException):
    """What a signal handler raises, like KeyboardInterrupt."""


def test_an_interrupt_while_waiting_breaks_the_round_for_the_others(job: Job) -> None:
    barriers = job.barriers(3)

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted("stop")

    def interrupt_rank_0() -> None:
        wait_until_arrived(*barriers[:2])
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        helper = Ranks(interrupt_rank_0)
        other = arriving(barriers[1])
        with pytest.raises(Interrupted):
            barriers[0].execute_barrier()
    finally:
        signal.signal(signal.SIGUSR1, before)

    helper.pass_()
    verdict = other.verdict()
    assert (verdict.kind, verdict.rank) == ("abort", 0)
    assert verdict.reason == "Interrupted: stop"
    assert arriving(*barriers).verdict() == verdict


class InterruptOnEntry:
    """Stands for a signal that comes when a round has been begun and nothing is sent."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier

    @hookimpl
    def barrier_enter(self, barrier: Barrier) -> None:
        if barrier is self._barrier:
            raise Interrupted("too early")


def test_a_call_interrupted_before_it_arrived_has_used_up_no_round(job: Job) -> None:
    barriers = job.barriers(2)
    with observed_by(InterruptOnEntry(barriers[1])), pytest.raises(Interrupted):
        barriers[1].execute_barrier()

    arriving(*barriers).pass_()

    assert [barrier.round for barrier in barriers] == [1, 1]


def test_a_rank_interrupted_before_it_arrived_releases_nobody_by_aborting(job: Job) -> None:
    barriers = job.barriers(2)
    ranks = arriving(barriers[0])
    with observed_by(InterruptOnEntry(barriers[1])), pytest.raises(Interrupted):
        barriers[1].execute_barrier()

    barriers[1].abort("gave up")

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.round, verdict.rank) == ("abort", 1, 1)


@pytest.mark.parametrize("when", ["barrier_enter", "barrier_exit"])
def test_an_observer_may_abort_on_the_very_thread_that_is_in_the_round(job: Job, when: str) -> None:
    barriers = job.barriers(2)

    class Strict:
        @hookimpl
        def barrier_enter(self, barrier: Barrier) -> None:
            self._look(barrier, "barrier_enter")

        @hookimpl
        def barrier_exit(self, barrier: Barrier) -> None:
            self._look(barrier, "barrier_exit")

        def _look(self, barrier: Barrier, hook: str) -> None:
            if barrier is barriers[1] and hook == when:
                barrier.abort("out of bounds")

    def two_rounds(barrier: Barrier) -> None:
        barrier.execute_barrier()
        barrier.execute_barrier()

    with observed_by(Strict()):
        verdict = Ranks(*[lambda barrier=b: two_rounds(barrier) for b in barriers]).verdict()

    assert (verdict.kind, verdict.rank, verdict.reason) == ("abort", 1, "out of bounds")
    assert verdict.round == (1 if when == "barrier_enter" else 2)


# Anew.


def test_a_barrier_is_made_anew_after_it_was_closed(job: Job) -> None:
    for _ in range(3):
        barriers = job.barriers(2)
        arriving(*barriers).pass_()
        job.close()


def test_a_barrier_is_made_anew_after_it_has_failed(job: Job) -> None:
    broken = job.barriers(2)
    broken[0].abort("no data")
    verdict = arriving(broken[0]).verdict()

    anew = job.barrier(0, 2)  # the other rank has not heard yet
    ranks = arriving(anew)
    assert arriving(broken[1]).verdict() == verdict
    arriving(job.barrier(1, 2)).pass_()
    ranks.pass_()

    assert [barrier.closed for barrier in broken] == [True, True]
    assert anew.round == 1


def test_a_rank_that_is_early_waits_until_rank_0_has_made_the_same_barrier(job: Job) -> None:
    barriers = job.barriers(2, barrier_class=FollowingBarrier)
    barriers[1].close()
    early = Ranks(lambda: job.barrier(1, 2, barrier_class=FollowingBarrier).execute_barrier())

    barriers[0].close()

    arriving(job.barrier(0, 2, barrier_class=FollowingBarrier)).pass_()
    early.pass_()


def test_a_rank_that_missed_a_barrier_comes_to_the_one_that_rank_0_has_made_since(job: Job) -> None:
    for _ in range(3):
        job.barrier(0, 2, barrier_class=FollowingBarrier).abort("nobody came")

    barriers = [job.barrier(rank, 2, barrier_class=FollowingBarrier) for rank in (0, 1)]

    arriving(*barriers).pass_()
    job.close()
    arriving(*job.barriers(2, barrier_class=FollowingBarrier)).pass_()  # they count alike again


def test_a_rank_does_not_wait_for_rank_0_for_ever(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FollowingAccess, "patience_secs", 0.1)
    for _ in range(2):
        with pytest.raises(BarrierSetupError, match=r"rank 0 has not come to .* 0\.0\. Start all"):
            job.barrier(1, 2, barrier_class=FollowingBarrier)

    job.barrier(0, 2)

    with pytest.raises(BarrierSetupError, match=r"generation 1\.0; the last .* made there is 0\.0"):
        job.barrier(1, 2, barrier_class=FollowingBarrier, generation="1")


def test_a_rank_has_one_open_barrier_of_a_name(job: Job) -> None:
    barriers = job.barriers(2)

    with pytest.raises(RankConflictError, match=r"already has an open barrier .* close\(\) it"):
        job.barrier(0, 2)

    arriving(*barriers).pass_()


def test_a_rank_with_another_world_size_is_refused_and_the_others_are_told(job: Job) -> None:
    first = job.barrier(0, 2)
    ranks = arriving(first)

    with pytest.raises(RankConflictError, match="told a world size of 3, the ranks before it 2"):
        job.barrier(1, 3)

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank) == ("conflict", 1)
    assert "world size of 3" in verdict.reason


def test_a_rank_of_another_protocol_version_is_refused_and_the_others_are_told(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = arriving(job.barrier(0, 2))
    monkeypatch.setattr("barrier_core.agreement.membership.PROTOCOL_VERSION", 7)

    with pytest.raises(RankConflictError, match=r"version 7, .* version 2; install one version"):
        job.barrier(1, 2)

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank) == ("conflict", 1)
    assert "it speaks protocol version 7" in verdict.reason


# State.


def test_the_store_holds_no_more_after_many_rounds_and_nothing_in_the_end(job: Job) -> None:
    barriers = job.barriers(2)
    most = 0

    def go(barrier: StoreBarrier) -> None:
        nonlocal most
        for number in range(1, 3001):
            barrier.execute_barrier()
            if barrier is barriers[0] and number % 100 == 0:
                # Removal is behind, by a batch and by how slow the watcher's thread is.
                wait_until(lambda: len(job.keys) < 3 * BATCH_ROUNDS)
                most = max(most, len(job.keys))

    Ranks(*[lambda barrier=b: go(barrier) for b in barriers]).pass_()

    assert most > BATCH_ROUNDS, "what is looked at is not what the rounds leave"
    job.close()
    assert job.keys == [f"barrier/{job.prefix}/generations"]


def test_nothing_is_left_however_far_behind_the_removal_is(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "collect", lambda *_: None)  # it never comes to it
    barrier = job.barrier(0, 1)

    for _ in range(20 * BATCH_ROUNDS):
        barrier.execute_barrier()

    barrier.close()
    assert job.keys == [f"barrier/{job.prefix}/generations"]


def test_rounds_that_pass_although_they_are_interrupted_leave_nothing_either(
    job: Job, monkeypatch: pytest.MonkeyPatch
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

    wait_until_removed(barrier._keys.round(2 * BATCH_ROUNDS - 1, "").log)
    assert len(job.keys) < 3 * BATCH_ROUNDS


def test_nothing_is_left_after_failures(job: Job) -> None:
    for number in range(10):
        barriers = job.barriers(3)
        arriving(*barriers).pass_()
        barriers[number % 3].abort("again")
        ranks = Ranks(*[lambda b=b: b.execute_barrier(tag=str(b.round)) for b in barriers])
        assert ranks.verdict().round == 2
        job.close()
        assert job.keys == [f"barrier/{job.prefix}/generations"]


def test_a_generation_that_was_never_closed_is_removed_by_the_next_but_one(job: Job) -> None:
    for number in range(5):
        barriers = job.barriers(2, generation=str(number))
        arriving(*barriers).pass_()
        barriers[0].abort("as if it were killed")
        generations = {key.split("/")[2] for key in job.keys} - {"generations"}
        assert len(generations) == min(number + 1, 2)


def test_the_keys_of_the_round_just_passed_stay(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barrier_core.agreement.cleanup.BATCH_ROUNDS", 1)  # after every round
    barriers = job.barriers(2)

    for number in range(1, 6):
        arriving(*barriers).pass_()
        wait_until_removed(barriers[0]._keys.round(number - 1, "").log)
        assert log_of(barriers[0], number)


# What waiting ranks are told.


def test_a_verdict_tells_the_progress_of_the_late_rank(job: Job) -> None:
    barriers = job.barriers(2, timeout_secs=1.0)
    barriers[1].report_progress("shard 12/40")

    (missing,) = arriving(barriers[0]).verdict().missing

    assert (missing.rank, missing.progress) == (1, "shard 12/40")
    assert missing.progress_age_secs is not None
    assert 0.5 < missing.progress_age_secs < 10


def test_progress_extends_the_deadline_for_as_long_as_it_is_reported(job: Job) -> None:
    barriers = job.barriers(2, timeout_secs=2.5, progress_extends_deadline=True)
    started = time.monotonic()
    ranks = arriving(barriers[0])

    for shard in range(15):
        barriers[1].report_progress(f"shard {shard}")
        time.sleep(0.2)
    last_report = time.monotonic()
    assert last_report - started > 2.9  # the deadline has passed

    (missing,) = ranks.verdict().missing
    assert missing.progress == "shard 14"
    assert 1.0 < time.monotonic() - last_report < 10


def test_a_rank_that_arrives_within_the_extended_deadline_passes(job: Job) -> None:
    barriers = job.barriers(2, timeout_secs=2.5, progress_extends_deadline=True)
    ranks = arriving(barriers[0])

    for shard in range(15):
        barriers[1].report_progress(f"shard {shard}")
        time.sleep(0.2)

    arriving(barriers[1]).pass_()
    ranks.pass_()


def test_a_deadline_is_judged_by_what_is_known_when_it_comes(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("barrier_core.agreement.watcher.LOOK_SECS", 60.0)
    barriers = job.barriers(2, timeout_secs=1.5, progress_extends_deadline=True)
    ranks = arriving(barriers[0])
    wait_until(lambda: (slow := barriers[0]._watcher._slow) and slow.looked.is_set())

    barriers[1].report_progress("after the look")

    (missing,) = ranks.verdict().missing
    assert missing.progress == "after the look"
    assert missing.progress_age_secs is not None
    assert missing.progress_age_secs >= 1.5  # not from the start of the round: from the report


class Listener:
    """Keeps what it hears of slow rounds: of each rank, who is missing and who should speak."""

    def __init__(self) -> None:
        self.heard: dict[int, tuple[list[int], bool, float]] = {}

    @hookimpl
    def barrier_waiting(
        self,
        barrier: Barrier,
        waited_secs: float,
        missing: tuple[RankStatus, ...],
        reporter: bool,
    ) -> None:
        ranks = [status.rank for status in missing]
        self.heard.setdefault(barrier.rank_info.global_rank, (ranks, reporter, waited_secs))


def test_after_the_soft_limit_observers_hear_who_is_missing(job: Job) -> None:
    barriers = job.barriers(4, warn_after_secs=0.5)
    listener = Listener()
    with observed_by(listener):
        ranks = arriving(*barriers[:3])
        wait_until(lambda: len(listener.heard) == 3)
        arriving(barriers[3]).pass_()
        ranks.pass_()

    assert [missing for missing, _, _ in listener.heard.values()] == [[3]] * 3
    assert sorted(reporter for _, reporter, _ in listener.heard.values()) == [False, False, True]
    assert all(0.5 <= waited < 5 for _, _, waited in listener.heard.values())


def test_observers_hear_of_a_round_that_goes_on_waiting_at_widening_intervals(job: Job) -> None:
    barrier = job.barrier(0, 2, warn_after_secs=0.2, timeout_secs=2.0)
    heard: list[float] = []

    class Clock:
        @hookimpl
        def barrier_waiting(self, waited_secs: float) -> None:
            heard.append(waited_secs)

    with observed_by(Clock()):
        assert arriving(barrier).verdict().kind == "timeout"

    assert 2 <= len(heard) <= 4
    assert all(waited >= 0.2 * 2**number for number, waited in enumerate(heard))


def test_without_a_soft_limit_observers_hear_nothing(job: Job) -> None:
    barriers = job.barriers(2, warn_after_secs=None, timeout_secs=1.0)
    listener = Listener()
    with observed_by(listener), suppress(BarrierTimeoutError):
        barriers[0].execute_barrier()

    assert listener.heard == {}
