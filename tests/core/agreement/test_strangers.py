"""Whoever reaches the store may write to it: bad input ends in a verdict, and never in a pass."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from barrier_core import (
    BarrierConfigError,
    BarrierConnectionError,
    BarrierError,
    BarrierFailedError,
    RankStatus,
    Verdict,
)
from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.agreement.cleanup import remove_all
from barrier_core.agreement.failure_detector import _decode_heartbeat
from barrier_core.agreement.foreign import ForeignRecordError, longest_value, read_number
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.membership import decode_job_description, decode_member, read_left
from barrier_core.agreement.round_log import (
    Break,
    all_tags,
    break_record,
    decode_break,
    decode_verdict,
    parse,
    passed,
)
from barrier_core.agreement.sealing import SealingClient, derive
from barrier_core.agreement.store import StoreAccess
from barrier_core.backends.local import STORE, LocalClient
from tests.fuzz.anything import fuzz
from tests.support.local_ranks import LocalJob, arriving

_numbers = itertools.count()
SECRET = "correct horse battery staple"
KEYS: dict[str, Callable[[Keys], str]] = {
    "log": lambda keys: keys.round(1, "").log,
    "verdict": lambda keys: keys.verdict,
    "alarm": lambda keys: keys.alarm,
    "passed": lambda keys: keys.passed,
    "left": lambda keys: keys.left,
    "job": lambda keys: keys.job,
    "member": lambda keys: keys.member(2),
    "heartbeat": lambda keys: keys.heartbeat(2),
}
"""Every key that a waiting rank reads."""
VALUES = {
    "nothing": b"",
    "no text": b"\xff\xfe\0",
    "a large number": b"9" * 30,
    "another number": b"7",
    "a negative number": b"-1",
    "arrivals of nobody": b"A-1\nA3\nA99\nA1_0\nA 2\nA2 {}\nA\n",
    "nested": b"[" * 100_000,
    "no verdict": b'{"kind":"timeout","round":"one"}',
    "a pid of all processes": b'{"rank":2,"host":"h","pid":-1,"started":0,"machine":"m",'
    b'"liveness_port":null}',
    "a port that is none": b'{"rank":2,"host":"h","pid":1,"started":0,"machine":"m",'
    b'"liveness_port":["10.0.0.1",99999999]}',
    "an age of a million years": b'{"count":1,"progress":"x","progress_age_secs":1e300}',
    "large": b"A" * 300_000,
}


def test_no_value_at_any_key_lets_a_rank_pass_or_raise_anything_but_a_barrier_error(
    job: LocalJob,
) -> None:
    barriers: dict[tuple[str, str], StoreBarrier] = {}
    for (key, key_of), (name, value) in itertools.product(KEYS.items(), VALUES.items()):
        each = LocalJob(f"{job.prefix}-{len(barriers)}")
        barriers[key, name] = each.barrier(0, 3, timeout_secs=0.6)
        STORE.values[key_of(each.keys)] = value
    started = time.monotonic()

    outcomes = arriving(*barriers.values()).outcomes()

    assert time.monotonic() - started < 30
    for place, barrier, error in zip(barriers, barriers.values(), outcomes, strict=True):
        assert isinstance(error, BarrierFailedError), (place, error)
        assert barrier.failed is error, place
        barrier.close()


def test_a_barrier_is_made_or_refused_whatever_stands_where_it_joins(job: LocalJob) -> None:
    for number, (name, value) in enumerate(VALUES.items()):
        for key in ("job", "member", "alarm", "cleaned-up"):
            each = LocalJob(f"{job.prefix}-{number}-{key}")
            where = f"{each.keys.base}/cleaned-up" if key == "cleaned-up" else KEYS[key](each.keys)
            STORE.values[where] = value
            try:
                each.barrier(2, 3)
            except BarrierError as error:
                assert not isinstance(error, BarrierFailedError), (name, key)  # noqa: PT017
            each.close()


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"passed": b"1"}, id="that it has passed"),
        pytest.param({"passed": b"100"}, id="that a later one has passed"),
        pytest.param({"verdict": msgspec.json.encode(Verdict("abort", 9))}, id="a later verdict"),
    ],
)
def test_a_round_does_not_pass_because_a_stranger_says_so(
    job: LocalJob, forged: dict[str, bytes]
) -> None:
    barriers = job.barriers(3)
    waiting = arriving(*barriers[:2])
    job.wait_until_arrived(0, 1)

    for key, value in forged.items():
        STORE.values[KEYS[key](job.keys)] = value

    for error in waiting.outcomes():
        assert isinstance(error, BarrierFailedError)
        assert "stranger" in str(error) or "given up" in str(error), error
    arriving(barriers[2]).outcomes()


@fuzz(st.binary(max_size=200))
def test_what_no_rank_writes_is_left_out_of_a_log_or_is_a_foreign_record(data: bytes) -> None:
    parse(data, 3)
    all_tags(data)
    passed(data, 3)
    for read in (
        decode_break,
        decode_verdict,
        decode_job_description,
        decode_member,
        _decode_heartbeat,
        lambda value: read_number(value, "a number"),
    ):
        with suppress(ForeignRecordError):
            read(data)


@fuzz(
    st.dictionaries(st.sampled_from(sorted(KEYS)), st.binary(max_size=60), min_size=1),
    st.booleans(),
)
def test_whatever_stands_at_the_keys_a_round_fails_in_time_with_a_verdict(
    values: dict[str, bytes], before: bool
) -> None:
    job = LocalJob("strangers-fuzz")

    def write() -> None:
        STORE.values.update({KEYS[key](job.keys): value for key, value in values.items()})

    try:
        if before:
            write()
        try:
            barrier = job.barrier(0, 3, timeout_secs=0.01, generation=f"{next(_numbers)}")
        except BarrierError:
            return
        job.keys = barrier._keys
        write()
        with pytest.raises(BarrierFailedError) as raised:
            barrier.execute_barrier()
        assert barrier.failed is raised.value
        barrier.close()
    finally:
        for key in job.stored:
            STORE.values.pop(key, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rank", "pid", "host", "kind", "round", "missing", "reason"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
GENUINE: list[Any] = [
    Verdict("timeout", 3, missing=(RankStatus(1, "alive", "gpu-1", 7),), tags={"a": "1"}),
    Break("abort", 1, "had enough"),
]


@fuzz(st.sampled_from(GENUINE), st.data())
def test_a_record_with_one_field_changed_is_read_or_is_a_foreign_record(
    genuine: Any, data: st.DataObject
) -> None:
    fields = msgspec.to_builtins(genuine)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    for read in (decode_verdict, decode_break):
        try:
            str(read(msgspec.json.encode(fields)))
        except ForeignRecordError:
            continue


def test_strangers_lines_in_a_log_change_nothing_for_those_that_ranks_have_written() -> None:
    genuine = [b"A0\n", b'A1 "save"\n', break_record(Break("abort", 1, "why")), b"A2\n"]
    foreign = [
        b"\n",
        b"A9\n",
        b"B{}\n",
        b"B" + b"[" * 5000 + b"\n",
        b"A1 7\n",
        b"\xff\n",
        b"A0 x\n",
    ]
    mixed = b"".join(each for pair in zip(foreign, genuine, strict=False) for each in pair)

    assert parse(mixed, 3) == parse(b"".join(genuine), 3)


def test_what_a_stranger_says_of_ranks_that_have_left_or_rounds_that_are_gone_is_bounded(
    job: LocalJob,
) -> None:
    client = LocalClient(STORE)
    STORE.values[job.keys.left] = b"1 two -3 9 " + b"9" * 400
    assert read_left(client, job.keys) == {1, 9}
    STORE.values[job.keys.job] = b'{"protocol":2,"world_size":999999999999,"incarnation":""}'
    with pytest.raises(ForeignRecordError):
        remove_all(client, job.keys)
    client.remove(job.stored)
    assert longest_value(8) < 2_000_000


# The job's secret.


def sealed(job: LocalJob, rank: int, secret: str = SECRET, **options: Any) -> StoreBarrier:
    options = {"verify": True, "timeout_secs": 5.0, **options}
    return Sealed(rank, 2, barrier_prefix=job.prefix, secret=secret, **options)


class Sealed(StoreBarrier):
    """A barrier over this process's store, of a job that has a secret."""

    barrier_type = "test"

    def __init__(self, global_rank: int, global_world_size: int, **options: Any) -> None:
        super().__init__(
            global_rank,
            global_world_size,
            store=StoreAccess("store of this process", lambda: LocalClient(STORE)),
            generation=None,
            warn_after_secs=None,
            heartbeat_secs=0.0,
            progress_extends_deadline=False,
            **options,
        )


@pytest.mark.parametrize("verify", [False, True])
def test_ranks_that_share_a_secret_meet(job: LocalJob, verify: bool) -> None:
    before = set(STORE.values)
    barriers = [sealed(job, rank, verify=verify) for rank in range(2)]
    for number in range(200):
        arriving(*barriers, tag=f"step {number % 3}").pass_()
    assert sorted(job.stored) == []  # no key has the job's name
    for barrier in barriers:
        barrier.close()
    assert len(set(STORE.values) - before) <= 1


def test_who_has_another_secret_never_meets_the_job(job: LocalJob) -> None:
    barriers = [sealed(job, 0, timeout_secs=0.5), sealed(job, 1, SECRET + "?", timeout_secs=0.5)]

    for error in arriving(*barriers).outcomes():
        assert isinstance(error, BarrierFailedError)
        assert error.verdict.kind == "timeout"
    for barrier in barriers:
        barrier.close()


def test_a_verdict_reaches_all_ranks_under_a_secret(job: LocalJob) -> None:
    barriers = [sealed(job, rank) for rank in range(2)]
    waiting = arriving(barriers[0])
    barriers[1].abort("had enough")
    assert waiting.verdict().reason == "had enough"
    for barrier in barriers:
        barrier.close()


def keys_of(barrier: StoreBarrier) -> Keys:
    return barrier._keys


FORGERIES: dict[str, Callable[[Keys], tuple[str, bytes]]] = {
    "an arrival": lambda keys: (keys.round(1, "").log, b"A1\n"),
    "an arrival with a code": lambda keys: (keys.round(1, "").log, b"A1\t" + b"0" * 32 + b"\n"),
    "that it has passed": lambda keys: (keys.passed, b"1"),
    "a later verdict": lambda keys: (keys.verdict, msgspec.json.encode(Verdict("abort", 9))),
    "an abort": lambda keys: (keys.alarm, msgspec.json.encode(Break("abort", 1, "forged"))),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_nobody_passes_by_a_forged_record(job: LocalJob, forgery: str) -> None:
    barriers = [sealed(job, rank, timeout_secs=1.0) for rank in range(2)]
    waiting = arriving(barriers[0])
    key, value = FORGERIES[forgery](keys_of(barriers[0]))

    with STORE.lock:
        STORE.values[key] = STORE.values.get(key, b"") + value
        STORE.changed.notify_all()

    (error,) = waiting.outcomes()
    assert isinstance(error, BarrierFailedError)
    assert "forged" not in str(error)
    for barrier in barriers:
        barrier.close()


def test_a_record_counts_at_its_own_key_alone(job: LocalJob) -> None:
    client = SealingClient(LocalClient(STORE), derive(SECRET, "records", ""))
    client.append(f"{job.keys.base}/1", b"A0\n")
    client.append(f"{job.keys.base}/1", b"A1\n")
    STORE.values[f"{job.keys.base}/2"] = STORE.values[f"{job.keys.base}/1"]

    assert client.read([f"{job.keys.base}/1", f"{job.keys.base}/2"]) == [b"A0\nA1\n", b""]
    client.remove(job.stored)


def test_a_release_that_the_log_does_not_confirm_is_a_lost_store(job: LocalJob) -> None:
    class Credulous(LocalClient):
        def wait(self, timeout_secs: float) -> bool:
            return True

    client = SealingClient(Credulous(STORE), derive(SECRET, "records", ""))
    client.arrive(job.keys.series(0, 2, ""), 1)
    with pytest.raises(ForeignRecordError, match="the round's log does not say"):
        client.wait_briefly()
    client.remove(job.stored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": "short"}, "at least 16 characters"),
        ({"secret": None}, "verify=True needs a secret"),
        ({"secret": 7}, "secret is a int, and must be a text"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_and_not_shown(
    job: LocalJob, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BarrierConfigError, match=message) as caught:
        sealed(job, 0, **options)
    assert "short" not in str(caught.value).replace("too short", "")


def test_the_secret_comes_from_the_environment_or_from_a_file(
    job: LocalJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    given_here = sealed(job, 0)
    monkeypatch.setenv("BARRIER_SECRET", SECRET)
    from_variable = sealed(job, 1, secret=None)  # type: ignore[arg-type]
    arriving(given_here, from_variable).pass_()
    from_variable.close()
    given_here.close()

    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("BARRIER_SECRET", f"file:{tmp_path / 'secret'}")
    barriers = [sealed(job, 0), sealed(job, 1, secret=None)]  # type: ignore[arg-type]
    arriving(*barriers).pass_()
    for barrier in barriers:
        barrier.close()
    monkeypatch.setenv("BARRIER_SECRET", f"file:{tmp_path / 'none'}")
    with pytest.raises(BarrierConfigError, match=r"file of secret, '.*none'"):
        sealed(job, 0, secret=None)  # type: ignore[arg-type]


def test_a_store_that_a_stranger_writes_to_is_lost_for_all_and_said(job: LocalJob) -> None:
    barriers = job.barriers(3)
    waiting = arriving(*barriers[:2])
    job.wait_until_arrived(0, 1)

    STORE.values[job.keys.alarm] = b"<html>"

    for error in waiting.outcomes():
        assert isinstance(error, BarrierConnectionError)
        assert "somebody who is no rank of this job writes to it" in str(error)
        assert "<html>" in str(error)
