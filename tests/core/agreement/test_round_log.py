"""The records of a round's log, and what their order decides."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from barrier_core.agreement.round_log import (
    Arrival,
    Break,
    all_tags,
    arrival_record,
    break_record,
    parse,
    passed,
)
from tests.core.model.store_model import canonical, visible

# Whatever can be sent: newlines and other control characters, but no halves of surrogate pairs.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RANKS = st.integers(0, 10**6)
ARRIVALS = st.builds(Arrival, RANKS, TEXTS)
BREAKS = st.builds(
    Break,
    st.sampled_from(["timeout", "abort", "dead", "left", "mismatch", "conflict"]),
    RANKS,
    TEXTS,
)
RECORDS = st.lists(
    st.one_of(st.builds(arrival_record, RANKS, TEXTS), st.builds(break_record, BREAKS)), max_size=8
)


def log_of(*arrivals: Arrival) -> bytes:
    return b"".join(arrival_record(*arrival) for arrival in arrivals)


def test_an_empty_log_has_nobody() -> None:
    assert parse(b"") == ([], None)
    assert not passed(b"", 1)


def test_most_arrivals_are_short() -> None:
    assert arrival_record(17, "") == b"A17\n"


def test_a_round_has_passed_once_all_have_arrived_with_one_tag() -> None:
    everybody = log_of(Arrival(1, "save"), Arrival(0, "save"))

    assert passed(everybody, 2)
    assert not passed(everybody, 3)
    assert not passed(log_of(Arrival(1, "save"), Arrival(0, "load")), 2)


def test_a_round_that_was_broken_before_the_last_arrival_never_passes() -> None:
    broken = arrival_record(0, "") + break_record(Break("timeout", 0, "")) + arrival_record(1, "")

    assert not passed(broken, 2)


def test_a_break_after_the_last_arrival_comes_too_late() -> None:
    assert passed(log_of(Arrival(0, ""), Arrival(1, "")) + break_record(Break("abort", 0, "")), 2)


def test_tags_are_told_with_their_ranks_in_order_of_arrival() -> None:
    log = parse(log_of(Arrival(2, "load"), Arrival(1, "save"), Arrival(0, "load")))

    assert log.tags == {"load": [2, 0], "save": [1]}


def test_tags_after_a_break_are_found_for_the_bells_they_have_left() -> None:
    log = log_of(Arrival(0, "save")) + break_record(Break("abort", 2, "")) + log_of(Arrival(1, "x"))

    assert all_tags(log) == ["save", "x"]
    assert list(parse(log).tags) == ["save"]


@given(st.lists(ARRIVALS, unique_by=lambda arrival: arrival.rank), BREAKS)
def test_what_is_appended_is_read_again(arrivals: list[Arrival], broken_by: Break) -> None:
    assert parse(log_of(*arrivals)) == (arrivals, None)
    assert parse(log_of(*arrivals) + break_record(broken_by)) == (arrivals, broken_by)


@given(RECORDS, BREAKS, RECORDS)
def test_what_follows_a_break_is_ignored(
    before: list[bytes], broken_by: Break, behind: list[bytes]
) -> None:
    decided = b"".join([*before, break_record(broken_by)])

    assert parse(decided + b"".join(behind)) == parse(decided)


@given(st.lists(ARRIVALS, min_size=1, unique_by=lambda arrival: arrival.rank), st.data())
def test_a_rank_that_arrives_twice_counts_once_with_its_first_tag(
    arrivals: list[Arrival], data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(arrivals)))
    repeated = [arrival._replace(tag=data.draw(TEXTS)) for arrival in again]

    assert parse(log_of(*arrivals, *repeated)) == (arrivals, None)


@given(st.lists(ARRIVALS, unique_by=lambda arrival: arrival.rank), st.data())
def test_the_forms_in_which_the_model_keeps_logs_say_the_same(
    arrivals: list[Arrival], data: st.DataObject
) -> None:
    records = [arrival_record(*arrival) for arrival in arrivals]
    breaks = data.draw(st.lists(st.builds(break_record, BREAKS), max_size=3))
    log = b"".join(data.draw(st.permutations(records + breaks)))
    world_size = len(arrivals)

    for form in (canonical(log), visible(log) or b""):
        assert sorted(parse(form).arrivals) == sorted(parse(log).arrivals)
        assert parse(form).broken_by == parse(log).broken_by
        assert passed(form, world_size) == passed(log, world_size)
    assert all_tags(canonical(log)) == all_tags(log)


FIRST_AT_ONCE = """
import os, sys, threading
import msgspec
from barrier_core import RankStatus, Verdict
from barrier_core.agreement import membership, round_log

sys.setswitchinterval(1e-6)
verdict = msgspec.json.encode(Verdict("dead", 1, missing=(RankStatus(1),)))
member = msgspec.json.encode(membership.Member(0, "gpu-0", 1, 2, "boot", ("10.0.0.1", 1)))
crashed = 0
for _ in range(30):
    child = os.fork()
    if not child:
        together = threading.Barrier(8)

        def decode():
            together.wait()
            round_log.decode_verdict(verdict)
            membership.decode_member(member)

        threads = [threading.Thread(target=decode) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    crashed += os.waitpid(child, 0)[1] != 0
print(crashed)
"""


def test_threads_may_be_the_first_to_decode_at_once() -> None:
    # Of processes whose threads let msgspec look into a class at once, two in five crash.
    done = subprocess.run(
        [sys.executable, "-c", FIRST_AT_ONCE],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.strip() == "0"
