"""The conformance suite finds out six backends that are wrong on purpose, each by its own test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.environments import ROOT

# The first standard test that fails; those before it pass.
CAUGHT_BY = {
    "ReleasesEarly": "test_no_rank_leaves_before_every_rank_has_entered",
    "OneRankTooFew": "test_no_rank_leaves_before_every_rank_has_entered",
    "IgnoresTheTimeout": "test_a_wait_ends_when_its_time_is_up[the call]",
    "SplitsTheVerdict": "test_every_rank_raises_the_same_verdict",
    "LeaksKeys": "test_the_number_of_keys_does_not_grow_with_the_rounds",
    "NamesTheWrongRank": "test_a_failed_round_names_the_missing_ranks",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Where each wrong backend's run, up to its first failure, leaves its results.

    All run at once: they wait more than they compute.
    """
    folder = tmp_path_factory.mktemp("wrong")
    results = {name: folder / f"{name}.xml" for name in CAUGHT_BY}
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
    running = [
        subprocess.Popen(
            (
                *command,
                f"--junitxml={path}",
                f"--basetemp={folder / name}",  # not one that all clear at their end
                f"tests/support/wrong_backends.py::Test{name}",
            ),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, path in results.items()
    ]
    try:
        for process in running:
            process.wait(100)
        yield results
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_a_wrong_backend_is_caught_by_the_test_for_what_is_wrong_with_it(
    runs: dict[str, Path], name: str
) -> None:
    cases = list(ElementTree.parse(runs[name]).iter("testcase"))
    failures = {case.get("name"): case.find("failure") for case in cases}
    failed = {test: failure for test, failure in failures.items() if failure is not None}

    assert list(failed) == [CAUGHT_BY[name]]


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_the_report_tells_guarantee_ranks_and_seed(runs: dict[str, Path], name: str) -> None:
    (failure,) = ElementTree.parse(runs[name]).iter("failure")
    report = failure.text or ""

    assert f"{name} (local) breaks a guarantee: " in report
    assert all(f"    rank {rank}: " in report for rank in range(4))
    assert "BARRIER_CONTRACT_SEED=" in report
