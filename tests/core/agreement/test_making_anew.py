"""Making a barrier anew, and who may become a member of it."""

from __future__ import annotations

import pytest

from barrier_core import BarrierSetupError, RankConflictError
from tests.support.injected_stores import FOLLOWING, FollowingAccess
from tests.support.local_ranks import LocalJob, Ranks, arriving


def test_a_barrier_is_made_anew_after_it_was_closed(job: LocalJob) -> None:
    for _ in range(3):
        barriers = job.barriers(2)
        arriving(*barriers).pass_()
        job.close()


def test_a_barrier_is_made_anew_after_it_has_failed(job: LocalJob) -> None:
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


def test_a_rank_that_is_early_waits_until_rank_0_has_made_the_same_barrier(job: LocalJob) -> None:
    barriers = job.barriers(2, FOLLOWING)
    barriers[1].close()
    early = Ranks(lambda: job.barrier(1, 2, FOLLOWING).execute_barrier())

    barriers[0].close()

    arriving(job.barrier(0, 2, FOLLOWING)).pass_()
    early.pass_()


def test_a_rank_that_missed_a_barrier_comes_to_the_one_that_rank_0_has_made_since(
    job: LocalJob,
) -> None:
    for _ in range(3):
        job.barrier(0, 2, FOLLOWING).abort("nobody came")

    barriers = [job.barrier(rank, 2, FOLLOWING) for rank in (0, 1)]

    arriving(*barriers).pass_()
    job.close()
    arriving(*job.barriers(2, FOLLOWING)).pass_()  # they count alike again


def test_a_rank_does_not_wait_for_rank_0_for_ever(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FollowingAccess, "patience_secs", 0.1)
    for _ in range(2):
        with pytest.raises(BarrierSetupError, match=r"rank 0 has not come to .* 0\.0\. Start all"):
            job.barrier(1, 2, FOLLOWING)

    job.barrier(0, 2)

    with pytest.raises(BarrierSetupError, match=r"generation 1\.0; the last .* made there is 0\.0"):
        job.barrier(1, 2, FOLLOWING, generation="1")


def test_a_rank_has_one_open_barrier_of_a_name(job: LocalJob) -> None:
    barriers = job.barriers(2)

    with pytest.raises(RankConflictError, match=r"already has an open barrier .* close\(\) it"):
        job.barrier(0, 2)

    arriving(*barriers).pass_()


def test_a_rank_with_another_world_size_is_refused_and_the_others_are_told(job: LocalJob) -> None:
    first = job.barrier(0, 2)
    ranks = arriving(first)

    with pytest.raises(RankConflictError, match="told a world size of 3, the ranks before it 2"):
        job.barrier(1, 3)

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank) == ("conflict", 1)
    assert "world size of 3" in verdict.reason


def test_a_rank_of_another_protocol_version_is_refused_and_the_others_are_told(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = arriving(job.barrier(0, 2))
    monkeypatch.setattr("barrier_core.agreement.membership.PROTOCOL_VERSION", 7)

    with pytest.raises(RankConflictError, match=r"version 7, .* version 2; install one version"):
        job.barrier(1, 2)

    verdict = ranks.verdict()
    assert (verdict.kind, verdict.rank) == ("conflict", 1)
    assert "it speaks protocol version 7" in verdict.reason
