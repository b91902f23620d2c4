"""Tags that differ only in their counters are grouped; others are told apart."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barrier_core.tags import tag_without_numbers

NUMBERS = st.from_regex(r"\A[0-9]{1,9}(\.[0-9]{1,3}){0,2}\Z")
# No digit, no point that would belong to a number beside it, and no place for a line number.
WORDS = st.text(st.characters(exclude_categories=["Nd"]), min_size=1, max_size=8).filter(
    lambda word: word[0] != "." and not word.endswith(".py:")
)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("", ""),
        ("done", "done"),
        ("save step=1200", "save step=#"),
        ("epoch3", "epoch#"),
        ("3rd shard", "#rd shard"),
        ("shard 3/40", "shard #/#"),
        ("lr=0.5", "lr=#"),
        ("version 1.2.3.", "version #."),
        ("-7", "-#"),
        ("plain.py:6", "plain.py:6"),
        ("train.py:64 step=7", "train.py:64 step=#"),
        ("save at /home/ann/train.py:64", "save at /home/ann/train.py:64"),
        ("train2.py:64:12", "train#.py:64:#"),
        ("happy:6", "happy:#"),
        ("gpu-3.cluster:29500", "gpu-#.cluster:#"),
    ],
)
def test_a_tag_without_its_numbers(tag: str, expected: str) -> None:
    assert tag_without_numbers(tag) == expected


@given(words=st.lists(WORDS, min_size=1, max_size=5), data=st.data())
def test_tags_that_differ_only_in_their_counters_are_grouped(
    words: list[str], data: st.DataObject
) -> None:
    first, second = (
        "".join(word + data.draw(NUMBERS, label="counter") for word in words) for _ in range(2)
    )

    assert tag_without_numbers(first) == "#".join([*words, ""]) == tag_without_numbers(second)


@given(first=st.integers(1, 99_999), second=st.integers(1, 99_999), step=st.integers(0, 10**9))
def test_lines_of_a_program_are_told_apart(first: int, second: int, step: int) -> None:
    tags = [f"train.py:{line} step={step}" for line in (first, second)]

    assert (tag_without_numbers(tags[0]) == tag_without_numbers(tags[1])) == (first == second)


@given(st.text())
def test_grouping_again_changes_nothing_and_leaves_no_digit_but_line_numbers(tag: str) -> None:
    grouped = tag_without_numbers(tag)

    assert tag_without_numbers(grouped) == grouped
    assert not re.search(r"\d", re.sub(r"\.py:\d+", ".py:", grouped))
