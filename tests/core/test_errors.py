"""The errors, what else each one is, and the texts that people read."""

from __future__ import annotations

import pickle
import threading
from typing import get_args

import pytest

import barrier_core
from barrier_core import (
    BarrierConfigError,
    BarrierConnectionError,
    BarrierError,
    BarrierFailedError,
    BarrierPluginError,
    BarrierSetupError,
    BarrierTimeoutError,
    BarrierUsageError,
    BrokenBarrierError,
    RankConflictError,
    RankStatus,
    UnknownBarrierTypeError,
    Verdict,
)
from barrier_core.errors import failure
from barrier_core.verdict import VerdictKind, describe_missing, describe_round


@pytest.mark.parametrize(
    ("error", "is_also"),
    [
        (BarrierConfigError, ValueError),
        (UnknownBarrierTypeError, BarrierConfigError),
        (BarrierPluginError, ImportError),
        (BarrierUsageError, RuntimeError),
        (BarrierSetupError, RuntimeError),
        (RankConflictError, BarrierSetupError),
        (BarrierTimeoutError, TimeoutError),
        (BarrierTimeoutError, threading.BrokenBarrierError),
        (BrokenBarrierError, threading.BrokenBarrierError),
        (BarrierConnectionError, ConnectionError),
    ],
)
def test_an_error_is_also_what_callers_know_to_catch(
    error: type[BarrierError], is_also: type[Exception]
) -> None:
    assert issubclass(error, BarrierError)
    assert issubclass(error, is_also)


def test_every_exported_error_is_a_barrier_error() -> None:
    exported = [getattr(barrier_core, name) for name in barrier_core.__all__]
    errors = [it for it in exported if isinstance(it, type) and issubclass(it, BaseException)]

    assert BarrierFailedError in errors
    assert [error for error in errors if not issubclass(error, BarrierError)] == []


LATE = RankStatus(
    rank=311,
    state="alive",
    host="gpu-38",
    pid=4121,
    progress="shard 12/40",
    progress_age_secs=4.2,
)
VERDICT = Verdict(
    kind="timeout",
    round=118,
    tag="save step=1200",
    rank=7,
    reason="after 600 s",
    world_size=512,
    missing=(LATE,),
)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("timeout", BarrierTimeoutError),
        ("abort", BrokenBarrierError),
        ("dead", BrokenBarrierError),
        ("left", BrokenBarrierError),
        ("mismatch", BrokenBarrierError),
        ("conflict", BrokenBarrierError),
        ("store", BarrierConnectionError),
    ],
)
def test_a_verdict_is_raised_as_the_error_of_its_kind(
    kind: VerdictKind, error: type[BarrierFailedError]
) -> None:
    verdict = Verdict(kind=kind, round=1)

    raised = failure(verdict)

    assert type(raised) is error
    assert raised.verdict is verdict
    assert str(raised) == str(verdict)


@pytest.mark.parametrize("error", [BarrierTimeoutError, BrokenBarrierError, BarrierConnectionError])
def test_an_error_keeps_its_verdict_on_the_way_to_another_process(
    error: type[BarrierFailedError],
) -> None:
    received = pickle.loads(pickle.dumps(error(VERDICT)))

    assert type(received) is error
    assert received.verdict == VERDICT
    assert str(received) == str(error(VERDICT))


def test_other_errors_keep_their_message_on_the_way_to_another_process() -> None:
    received = pickle.loads(pickle.dumps(BarrierPluginError("tcp_store cannot be loaded")))

    assert type(received) is BarrierPluginError
    assert str(received) == "tcp_store cannot be loaded"


def test_who_is_missing_reads_as_one_line() -> None:
    assert describe_missing((LATE,), 512) == (
        'waits for 1 of 512 ranks: rank 311 (gpu-38, pid 4121), alive, last progress "shard 12/40" '
        "4 s ago"
    )


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (RankStatus(3), "rank 3 (has not joined)"),
        (RankStatus(3, detail="said good-bye"), "rank 3 (said good-bye)"),
        (RankStatus(3, "unknown", "gpu-1", 7), "rank 3 (gpu-1, pid 7), unknown"),
        (
            RankStatus(3, "dead", "gpu-1", 7, detail="no heartbeat for 12 s"),
            "rank 3 (gpu-1, pid 7), dead, no heartbeat for 12 s",
        ),
        (
            RankStatus(3, "dead", "gpu-1", 7, "shard 1/2", 61.5, "its process is gone"),
            'rank 3 (gpu-1, pid 7), dead, its process is gone, last progress "shard 1/2" 62 s ago',
        ),
    ],
)
def test_a_rank_is_described_by_what_is_known_of_it(status: RankStatus, text: str) -> None:
    assert str(status) == text


def test_few_missing_ranks_are_all_spelled_out() -> None:
    missing = tuple(RankStatus(rank) for rank in range(10))

    text = describe_missing(missing, 16)

    assert text.startswith("waits for 10 of 16 ranks: rank 0 (has not joined); rank 1 (")
    assert text.endswith("rank 9 (has not joined)")


def test_many_missing_ranks_are_given_as_ranges_and_the_first_spelled_out() -> None:
    missing = tuple(RankStatus(rank) for rank in (3, *range(17, 32)))

    text = describe_missing(missing, 512)

    assert text.startswith("waits for 16 of 512 ranks (3, 17-31): rank 3 (has not joined); ")
    assert text.endswith("; rank 25 (has not joined); and 6 more")


GONE = RankStatus(3, "dead", "gpu-1", 7, detail="its process is gone")


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (
            VERDICT,
            "round 118 'save step=1200' timed out after 600 s: 1 of 512 ranks did not arrive: "
            'rank 311 (gpu-38, pid 4121), alive, last progress "shard 12/40" 4 s ago. Look at the '
            "missing ranks first; a job that may be slower needs more timeout_secs",
        ),
        (
            Verdict("abort", 2, rank=1, reason="disk full on /ckpt", world_size=4),
            "round 2 was aborted by rank 1: disk full on /ckpt. Mend what that rank reports, then "
            "restart all ranks",
        ),
        (
            Verdict("abort", 2, rank=1, reason="disk full", world_size=4, missing=(GONE,)),
            "round 2 was aborted by rank 1: disk full; 1 of 4 ranks had not arrived: rank 3 "
            "(gpu-1, pid 7), dead, its process is gone. Mend what that rank reports, then restart "
            "all ranks",
        ),
        (
            Verdict("dead", 5, rank=0, reason="rank 0 has found it", world_size=4, missing=(GONE,)),
            "round 5 is broken: 1 of 4 ranks had not arrived: rank 3 (gpu-1, pid 7), dead, its "
            "process is gone. Find out on its host why it ended, then restart all ranks",
        ),
        (
            Verdict(
                "left",
                5,
                rank=0,
                reason="found that rank 3 has left",
                world_size=4,
                missing=(RankStatus(3, "left", "gpu-1", 7, detail="has closed its barrier"),),
            ),
            "round 5 is broken: 1 of 4 ranks had not arrived: rank 3 (gpu-1, pid 7), left, has "
            "closed its barrier. Have every rank go through the same rounds before it closes the "
            "barrier, then restart all ranks",
        ),
        (
            Verdict(
                "mismatch",
                4,
                tag="save",
                rank=2,
                reason="the ranks came with different tags",
                world_size=4,
                tags={"": "2", "save": "0-1, 3"},
            ),
            "round 4 'save' is broken, as its ranks came with different tags: no tag on rank 2, "
            "'save' on ranks 0-1, 3. Bring all ranks to the same call, with the same tag",
        ),
        (
            Verdict("conflict", 6, rank=1, reason="rank 1 (pid 8 on gpu-2) may not join: it is"),
            "round 6 is broken: rank 1 (pid 8 on gpu-2) may not join: it is. Start each rank once, "
            "with the settings of the job, then restart all ranks",
        ),
        (
            Verdict("store", 3, reason="the TCP store at 10.0.0.1:29511 failed: no answer"),
            "round 3 is lost: the TCP store at 10.0.0.1:29511 failed: no answer. Whether other "
            "ranks have passed is not known: restart from the last checkpoint",
        ),
    ],
    ids=["timeout", "abort", "abort of who waits", "dead", "left", "mismatch", "conflict", "store"],
)
def test_a_verdict_is_one_line_that_says_the_outcome_who_and_what_to_do(
    verdict: Verdict, text: str
) -> None:
    assert str(verdict) == text


def test_every_kind_of_verdict_ends_with_a_remedy_of_its_own() -> None:
    remedies = {str(Verdict(kind, 1)).rpartition(". ")[2] for kind in get_args(VerdictKind)}

    assert len(remedies) == len(get_args(VerdictKind))


def test_a_round_without_a_tag_is_named_by_its_number() -> None:
    assert describe_round(1, "") == "round 1"
