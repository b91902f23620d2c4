"""Rounds that pass: who passes, when, and what keeps rounds apart."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from barrier_core import BarrierTimeoutError
from barrier_core.agreement.keys import HOSTED_FOR, Keys
from barrier_core.agreement.round_log import parse
from barrier_core.agreement.store import StoreAccess
from barrier_core.agreement.watcher import Watcher
from barrier_core.backends.local import STORE
from tests.support.injected_stores import LATE, POLLING
from tests.support.local_ranks import LocalJob, Ranks, arriving

SHORT_SECS = 0.6  # a hard limit that is meant to pass

EITHER_STORE = pytest.mark.parametrize(
    "store", [pytest.param(None, id="blocks"), pytest.param(POLLING, id="is asked")]
)


@EITHER_STORE
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_all_ranks_pass(job: LocalJob, store: StoreAccess | None, world_size: int) -> None:
    barriers = job.barriers(world_size, store)

    for _ in range(3):
        arriving(*barriers).pass_()

    assert [barrier.round for barrier in barriers] == [3] * world_size


def test_nobody_leaves_a_round_before_all_have_entered_it(job: LocalJob) -> None:
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


def test_barriers_whose_names_and_numbers_look_alike_never_meet(job: LocalJob) -> None:
    barriers = job.barriers(2)
    alike = job.barrier(0, 2, barrier_prefix=f"{job.prefix}1", timeout_secs=SHORT_SECS)

    for _ in range(11):
        arriving(*barriers).pass_()

    with pytest.raises(BarrierTimeoutError):  # not released by round 11 of the other
        alike.execute_barrier()


def test_jobs_with_different_ids_never_meet(job: LocalJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARRIER_JOB_ID", "one")
    one = job.barriers(2)
    other = job.barriers(2, job_id="other")  # the option beats the environment
    without = job.barriers(2, job_id="")

    ranks = Ranks(*[lambda b=b: b.execute_barrier(tag=b.job_id) for b in (one[0], other[1])])
    for _ in range(11):
        arriving(*without, tag="without").pass_()
    arriving(one[1], tag="one").pass_()
    arriving(other[0], tag="other").pass_()
    ranks.pass_()


ROUNDS = st.tuples(
    st.text(max_size=4),
    st.sampled_from(["0", "0.1", "1/2"]),
    st.text(max_size=2) | st.sampled_from(["counts", "hosted-for"]),
    st.integers(0, 99),
)


@given(ROUNDS, ROUNDS, st.text("/1a%", max_size=3), st.text("/1a%", max_size=3))
def test_no_two_rounds_share_a_key(
    one: tuple[str, str, str, int], other: tuple[str, str, str, int], tag: str, other_tag: str
) -> None:
    def keys(prefix: str, generation: str, job_id: str, number: int, tag: str) -> set[str]:
        found = Keys(prefix, generation, job_id)
        whole = {found.verdict, found.alarm, found.passed, found.job, found.left, found.cleaned_up}
        return {
            *astuple(found.round(number, tag)),
            *whole,
            found.member(number),
            found.heartbeat(number),
        }

    mine, theirs = keys(*one, tag), keys(*other, other_tag)

    assert len(mine) == 10
    assert HOSTED_FOR not in mine
    if one[:3] != other[:3]:
        assert not mine & theirs
    elif one[3] != other[3]:
        assert not set(astuple(Keys(*one[:3]).round(one[3], tag))) & theirs


def test_a_rank_that_gives_up_too_late_passes_like_the_others(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "attend", lambda *_: None)  # it would see that all have arrived
    late = job.barrier(0, 2, LATE, timeout_secs=0.1)
    barriers = [late, job.barrier(1, 2)]

    for number in (1, 2):
        arriving(*barriers).pass_()
        log = parse(job.log(number))
        assert log.broken_by is not None
        assert log.broken_by.kind == "timeout"
        assert STORE.values[job.keys.passed] == b"%d" % number
