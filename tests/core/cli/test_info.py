"""``barrier info``: one backend, and the options that it takes."""

from __future__ import annotations

import pytest

from tests.core.conftest import Site
from tests.support.command import Command


def test_info_tells_everything_about_one_backend(barrier: Command) -> None:
    outcome = barrier("info", "alpha")

    assert outcome.status == 0
    assert outcome.out == (
        "alpha  (barrier-alpha 1.2)  ok\n"
        "A barrier over [nothing] at all: it never waits.\n"
        "\n"
        "Capabilities: timeout, bounded_state\n"
        "\n"
        "Options:\n"
        "  global_rank: int, from the launcher\n"
        "      this process's rank; from the launcher if not given\n"
        "  global_world_size: int, from the launcher\n"
        "      number of ranks; from the launcher if not given\n"
        "  address: str, required\n"
        "      where the [store] is\n"
        "  timeout_secs: float = 600.0\n"
        "      hard limit in seconds\n"
        "  place: object = <class 'object'>\n"
    )


def test_info_as_json_is_for_programs(barrier: Command) -> None:
    told = barrier("info", "alpha", "--json").json

    options = {option.pop("name"): option for option in told.pop("options")}
    (listed,) = barrier("list", "--json").json
    assert told == {**listed, "summary": "A barrier over [nothing] at all: it never waits."}
    assert list(options) == ["global_rank", "global_world_size", "address", "timeout_secs", "place"]
    assert options["timeout_secs"] == {
        "type": "float",
        "required": False,
        "default": 600.0,
        "description": "hard limit in seconds",
    }
    assert (options["address"]["required"], options["address"]["default"]) == (True, None)
    assert (options["global_rank"]["required"], options["global_rank"]["default"]) == (False, None)
    assert options["place"]["default"] == "<class 'object'>"  # JSON has no form for a class


def test_info_imports_the_one_that_is_asked_for_only(barrier: Command, globally: Site) -> None:
    globally.install_backend("beta")

    barrier("info", "alpha")

    assert not globally.imported("beta")


def test_info_of_a_class_that_says_little_is_short(barrier: Command, globally: Site) -> None:
    terse = "class Backend:\n    barrier_type = 'terse'\n    def execute_barrier(self): pass\n"
    globally.install("barrier-terse", {"terse": "terse:Backend"}, modules={"terse": terse})

    assert barrier("info", "terse").out == (
        "terse  (barrier-terse 1.0)  ok\n\nCapabilities: none declared\n\nIt takes no options.\n"
    )


def test_info_of_a_broken_backend_says_why_and_exits_1(barrier: Command, globally: Site) -> None:
    globally.install("barrier-broken", {"broken": "absent:Backend"})

    outcome = barrier("info", "broken")
    as_json = barrier("info", "broken", "--json")

    assert (outcome.status, as_json.status) == (1, 1)
    assert outcome.out.startswith("broken  (barrier-broken 1.0)  broken\nentry point 'broken' = ")
    assert "ModuleNotFoundError: No module named 'absent'" in outcome.out
    assert as_json.json["state"] == "broken"
    assert as_json.json["options"] == []


@pytest.mark.parametrize(
    ("asked", "fragments"),
    [
        ("nowhere", ["Unknown barrier type: 'nowhere'", "Available types: ['alpha']"]),
        ("alhpa", ["Unknown barrier type: 'alhpa'", "Did you mean 'alpha'?"]),
        ("tcp_store", ["Unknown barrier type: 'tcp_store'", "pip install barrier-tcp-store"]),
        ("twice", ["claimed twice", "of first 1.0", "of second 1.0", "twice@first"]),
    ],
)
def test_info_of_what_cannot_be_told_apart_or_found_exits_2_with_the_registrys_message(
    barrier: Command, globally: Site, asked: str, fragments: list[str]
) -> None:
    globally.install("first", {"twice": "alpha:Backend"})
    globally.install("second", {"twice": "alpha:Backend"})
    fragments = [fragment.replace("['alpha']", "['alpha', 'twice']") for fragment in fragments]

    outcome = barrier("info", asked)

    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("Error: ")
    assert [fragment for fragment in fragments if fragment not in outcome.err] == []
