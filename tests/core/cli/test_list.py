"""``barrier list``: the backends that are installed."""

from __future__ import annotations

import pytest

from barrier_core import register_barrier
from barrier_core.discovery.known_backends import KNOWN_BACKENDS
from tests.core.cli.conftest import TALKATIVE
from tests.core.conftest import Site
from tests.support.command import Command


def test_list_shows_what_is_installed(barrier: Command) -> None:
    outcome = barrier("list")

    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert lines[0].split() == ["TYPE", "DISTRIBUTION", "STATE", "CAPABILITIES"]
    assert lines[1].split() == ["alpha", "barrier-alpha", "1.2", "ok", "timeout,", "bounded_state"]


def test_list_as_json_is_for_programs(barrier: Command) -> None:
    assert barrier("list", "--json").json == [
        {
            "name": "alpha",
            "distribution": "barrier-alpha",
            "version": "1.2",
            "state": "ok",
            "reason": None,
            "capabilities": ["timeout", "bounded_state"],
        }
    ]


def test_what_a_plugin_prints_while_it_is_imported_is_no_part_of_the_answer(
    barrier: Command,
) -> None:
    outcome = barrier("list", "--json")

    assert outcome.json[0]["name"] == "alpha"
    assert "talks while it is imported" in outcome.err


def test_a_broken_backend_is_listed_with_the_reason(barrier: Command, globally: Site) -> None:
    globally.install(
        "barrier-broken",
        {"broken": "broken_module:Backend"},
        modules={"broken_module": "import a_library_that_is_not_there"},
    )

    outcome = barrier("list")
    working, broken = barrier("list", "--json").json

    assert outcome.status == 0
    assert "broken barrier-broken 1.0 broken -" in outcome.words
    assert "broken is broken: entry point 'broken' = 'broken_module:Backend'" in outcome.words
    assert "No module named 'a_library_that_is_not_there'" in outcome.words
    assert working["state"] == "ok"
    assert (broken["name"], broken["state"]) == ("broken", "broken")
    assert "a_library_that_is_not_there" in broken["reason"]
    assert broken["capabilities"] == []


def test_a_backend_that_ends_the_process_does_not_end_the_listing(
    barrier: Command, globally: Site
) -> None:
    globally.install(
        "barrier-broken",
        {"broken": "leaving_module:Backend"},
        modules={"leaving_module": "import sys; sys.exit(3)"},
    )

    listed = barrier("list", "--json").json

    assert [entry["state"] for entry in listed] == ["ok", "broken"]


def test_two_that_claim_a_name_are_listed_as_users_must_ask_for_them(
    barrier: Command, globally: Site
) -> None:
    globally.install("rival", {"alpha": "alpha:Backend"})

    listed = barrier("list", "--json").json

    assert [(entry["name"], entry["state"]) for entry in listed] == [
        ("alpha@barrier-alpha", "ok"),
        ("alpha@rival", "ok"),
    ]


def test_a_class_registered_by_hand_is_listed(barrier: Command) -> None:
    class OfTorch:
        barrier_type = "of_torch"

        def execute_barrier(self) -> None:
            pass

    register_barrier(OfTorch)

    outcome = barrier("list")
    _, by_hand = barrier("list", "--json").json

    assert "of_torch (registered by hand) ok -" in outcome.words
    assert (by_hand["distribution"], by_hand["version"]) == (None, None)
    assert by_hand["capabilities"] == []


def test_list_ends_with_how_to_get_the_known_backends_that_are_not_installed(
    barrier: Command,
) -> None:
    lines = barrier("list").out.splitlines()

    assert lines[-len(KNOWN_BACKENDS) :] == [
        f"{name} is not installed: pip install {distribution}"
        for name, distribution in KNOWN_BACKENDS.items()
    ]


@pytest.mark.parametrize("leaves_out", [{"BARRIER_PLUGINS": "a"}, {"BARRIER_PLUGINS_BLOCK": "b"}])
def test_list_does_not_hint_at_what_is_installed(
    barrier: Command,
    globally: Site,
    monkeypatch: pytest.MonkeyPatch,
    leaves_out: dict[str, str],
) -> None:
    for name in KNOWN_BACKENDS:
        globally.install(f"barrier-{name}", {name: "alpha:Backend"})
    for variable in leaves_out:
        only_these, not_these = "alpha", ",".join(KNOWN_BACKENDS)
        monkeypatch.setenv(variable, not_these if variable.endswith("BLOCK") else only_these)

    outcome = barrier("list")

    assert outcome.out.splitlines()[1].startswith("alpha")
    assert "pip install" not in outcome.out


def test_into_a_pipe_a_row_and_a_reason_are_on_one_line_however_long(
    barrier: Command, globally: Site
) -> None:
    many = TALKATIVE.replace("Capability.TIMEOUT |", "~Capability(0) |").replace("alpha", "capable")
    globally.install("barrier-capable", {"capable": "capable:Backend"}, modules={"capable": many})
    globally.install("barrier-broken", {"broken": "absent:Backend"})

    table, _, rest = barrier("list").out.partition("\n\n")

    headings, *rows = table.splitlines()
    state = headings.index("STATE")
    assert [row[state:].split()[0] for row in rows] == ["ok", "broken", "ok"]
    assert len(rows[-1]) > 80
    assert "bounded_state" in rows[-1]
    assert rest.splitlines()[0].endswith("or block it with BARRIER_PLUGINS_BLOCK=broken")
