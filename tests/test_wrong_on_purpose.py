"""The conformance suite finds out the backends that are wrong on purpose, each by its own test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import wrong_over_sockets
from tests.support.environments import ROOT
from tests.support.sizes import size

# The first standard test that fails; those before it pass.
WHOLE_SUITE = {
    "ReleasesEarly": "test_no_rank_leaves_before_every_rank_has_entered",
    "OneRankTooFew": "test_no_rank_leaves_before_every_rank_has_entered",
    "IgnoresTheTimeout": "test_a_wait_ends_when_its_time_is_up[the call]",
    "SplitsTheVerdict": "test_every_rank_raises_the_same_verdict",
    "LeaksKeys": "test_the_number_of_keys_does_not_grow_with_the_rounds",
    "NamesTheWrongRank": "test_a_failed_round_names_the_missing_ranks",
}
# Each with no more than this test, and all in one run: most have ranks that are processes.
ONE_TEST = {
    "PassesInAnEmptiedStore": "test_a_store_that_is_emptied_is_lost[between rounds]",
    "AbortsAlone": "test_an_abort_reaches_every_rank_that_waits",
    "LetsAllTagsPass": "test_ranks_with_different_tags_do_not_pass_each_other",
    "LeavesAnswersUnread": "test_a_signal_handler_may_run_at_any_moment[raises]",
    "ConnectsAnewSilently": "test_a_store_that_is_emptied_is_lost[between rounds]",
    "HasNoHeartbeats": "test_a_rank_killed_on_another_machine_breaks_the_round",
    "SharesItsConnections": "test_a_forked_child_keeps_no_connection_open",
    "IgnoresTheJob": "test_two_jobs_never_meet",
    "IgnoresTheGeneration": "test_a_restarted_job_sees_nothing_of_the_one_before",
    "KeepsKeysForTwoLimits": "test_a_barrier_outlives_its_own_time_limit",
}
CAUGHT_BY = WHOLE_SUITE | ONE_TEST
RIGHT = "SocketBarrier"


def suite_of(name: str) -> str:
    """Return where the suite of a backend is."""
    module = "wrong_over_sockets" if hasattr(wrong_over_sockets, name) else "wrong_backends"
    return f"tests/support/{module}.py::Test{name}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Where each wrong backend's run leaves its results.

    All run at once: they wait more than they compute.
    """
    folder = tmp_path_factory.mktemp("wrong")
    selected = {name: ["-x", suite_of(name)] for name in WHOLE_SUITE}
    selected["others"] = [f"{suite_of(name)}::{test}" for name, test in ONE_TEST.items()]
    right = [f"{suite_of(RIGHT)}::{test}" for test in dict.fromkeys(ONE_TEST.values())]
    selected["others"] += size(right, [suite_of(RIGHT)])
    results = {name: folder / f"{name}.xml" for name in selected}
    running = [
        subprocess.Popen(
            (
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                f"--junitxml={results[name]}",
                f"--basetemp={folder / name}",  # not one that all clear at their end
                *selection,
            ),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, selection in selected.items()
    ]
    try:
        for process in running:
            process.wait(100)
        yield results | dict.fromkeys([*ONE_TEST, RIGHT], results["others"])
    finally:
        for process in running:
            process.kill()
            process.wait()


def failures(run: Path, name: str) -> dict[str, str]:
    """Return the reports of the tests that have failed on a wrong backend, by their names."""
    return {
        case.get("name", ""): failure.text or ""
        for case in ElementTree.parse(run).iter("testcase")
        if case.get("classname", "").endswith(f".Test{name}")
        for failure in case.iter("failure")
    }


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_a_wrong_backend_is_caught_by_the_test_for_what_is_wrong_with_it(
    runs: dict[str, Path], name: str
) -> None:
    assert list(failures(runs[name], name)) == [CAUGHT_BY[name]]


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_the_report_tells_guarantee_ranks_and_seed(runs: dict[str, Path], name: str) -> None:
    (report,) = failures(runs[name], name).values()

    assert report.startswith(
        (f"{name} (local) breaks a guarantee: ", f"{name} (socket) breaks a guarantee: ")
    )
    assert all(f"    rank {rank}: " in report for rank in range(4))
    assert "BARRIER_CONTRACT_SEED=" in report


def test_what_the_wrong_ones_derive_from_is_right(runs: dict[str, Path]) -> None:
    """So each is caught for its own fault."""
    cases = ElementTree.parse(runs[RIGHT]).iter("testcase")
    passed = [case for case in cases if case.get("classname", "").endswith(f".Test{RIGHT}")]

    assert len(passed) >= len(set(ONE_TEST.values()))
    assert failures(runs[RIGHT], RIGHT) == {}
