"""``barrier list``: the observers that are installed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from barrier_core.cli import main
from tests.core.conftest import Site

NOT_TO_BE_IMPORTED = {"watching": "raise RuntimeError('listing imports no observer')"}


@pytest.fixture(autouse=True)
def installed(globally: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend and two observers, one of which the environment leaves out."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("BARRIER_OBSERVERS_BLOCK", "spy")
    globally.install_backend("alpha")
    entry_points = "[barriers.observers]\nwatch = watching:Watch\nspy = watching:Spy\n"
    globally.install("barrier-watching", entry_points, "1.2", NOT_TO_BE_IMPORTED)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["list", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_observers_are_in_a_table_of_their_own() -> None:
    lines = [line.split() for line in run().splitlines()]

    assert lines[0] == ["TYPE", "DISTRIBUTION", "STATE", "CAPABILITIES"]
    assert lines[-4:] == [
        [],
        ["OBSERVER", "DISTRIBUTION", "STATE"],
        ["spy", "barrier-watching", "1.2", "left", "out", "by", "BARRIER_OBSERVERS_BLOCK=spy"],
        ["watch", "barrier-watching", "1.2", "used"],
    ]


def test_the_observers_alone() -> None:
    table = run("--observers")

    assert table.splitlines()[0].split() == ["OBSERVER", "DISTRIBUTION", "STATE"]
    assert "alpha" not in table


def test_as_json_the_observers_are_a_list_of_their_own() -> None:
    about = {"distribution": "barrier-watching", "version": "1.2"}

    assert json.loads(run("--observers", "--json")) == [
        {"name": "spy", **about, "left_out_by": "BARRIER_OBSERVERS_BLOCK=spy"},
        {"name": "watch", **about, "left_out_by": None},
    ]
    backends = {entry["name"] for entry in json.loads(run("--json"))}
    assert backends >= {"alpha"}
    assert backends.isdisjoint({"spy", "watch"})
