"""The ``barrier`` command, as people and programs use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

from barrier_core import register_barrier
from barrier_core.cli import (
    check_command,
    info_command,
    list_command,
    main,
    new_command,
    wait_command,
)
from barrier_core.discovery.known_backends import KNOWN_BACKENDS
from tests.core.conftest import FailingFinder, Site

ROOT = Path(__file__).parents[2]

# Imported above, before a test hides what is installed: they bring rich.
SUBCOMMANDS = (check_command, info_command, list_command, new_command, wait_command)

TALKATIVE = """
from typing import Annotated, Any
from msgspec import Meta
from barrier_core.contract import Barrier, Capability, GlobalRank, GlobalWorldSize

print("a plugin that talks while it is imported")

class Backend(Barrier):
    '''A barrier over [nothing] at all:
    it never waits.

    The rest is for those who read on.
    '''

    barrier_type = "alpha"
    capabilities = Capability.TIMEOUT | Capability.BOUNDED_STATE

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        address: Annotated[str, Meta(description="where the [store] is")],
        timeout_secs: Annotated[float, Meta(description="hard limit in seconds")] = 600.0,
        place: Any = object,
    ) -> None:
        super().__init__(global_rank, global_world_size, timeout_secs)

    def _wait(self, timeout_secs, tag):
        pass
"""


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What it wrote, without regard to where lines were broken."""
        return " ".join(self.out.split())


class Command:
    """The command, called as its script calls it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(arguments, prog_name="barrier")
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, *self._capsys.readouterr())


@pytest.fixture
def barrier(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, globally: Site
) -> Command:
    """The command, where only what is in the site is installed."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    globally.install("barrier-alpha", {"alpha": "alpha:Backend"}, "1.2", {"alpha": TALKATIVE})
    return Command(capsys)


def in_a_process(folder: Path, *arguments: str, **environ: str) -> Outcome:
    """Run the command in a process of its own, which also sees what is really installed."""
    run = subprocess.run(
        [sys.executable, "-m", "barrier_core", *arguments],
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "BARRIER_PLUGINS": "alpha",
            **environ,
        },
        timeout=100,
        check=False,
    )
    return Outcome(run.returncode, run.stdout, run.stderr)


# --- barrier list --------------------------------------------------------------------------------


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


def test_list_fits_into_eighty_columns_and_says_the_reason_on_one_line(
    barrier: Command, globally: Site
) -> None:
    many = TALKATIVE.replace("TIMEOUT |", "~Capability.NONE |").replace("alpha", "capable")
    globally.install("barrier-capable", {"capable": "capable:Backend"}, modules={"capable": many})
    globally.install("barrier-broken", {"broken": "absent:Backend"})

    table, _, rest = barrier("list").out.partition("\n\n")

    assert max(map(len, table.splitlines())) <= 80
    assert "bounded_state" in table
    assert rest.splitlines()[0].endswith("or block it with BARRIER_PLUGINS_BLOCK=broken")


# --- barrier info --------------------------------------------------------------------------------


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


# --- the command itself --------------------------------------------------------------------------


def test_help_names_the_subcommands(barrier: Command) -> None:
    outcome = barrier("--help")

    assert outcome.status == 0
    assert "list List the barriers that are installed." in outcome.words
    assert "info Show one barrier TYPE and the options it takes." in outcome.words
    assert "check Go through a barrier many times, and tell how long that takes." in outcome.words
    assert "wait Wait until every rank has come here." in outcome.words


def test_an_unknown_subcommand_exits_2(barrier: Command) -> None:
    outcome = barrier("lsit")

    assert outcome.status == 2
    assert "No such command 'lsit'" in outcome.err


def test_the_module_is_the_command(site: Site) -> None:
    site.install("barrier-alpha", {"alpha": "alpha:Backend"}, "1.2", {"alpha": TALKATIVE})

    outcome = in_a_process(site.path, "list", "--json")

    assert outcome.status == 0
    assert [entry["name"] for entry in outcome.json] == ["alpha"]


def test_the_module_calls_itself_by_the_name_of_the_command(tmp_path: Path) -> None:
    assert in_a_process(tmp_path, "--help").out.startswith("Usage: barrier ")


def test_the_version_is_that_of_the_core(tmp_path: Path) -> None:
    outcome = in_a_process(tmp_path, "--version")

    assert outcome.out == f"barrier {importlib_metadata.version('barrier-core')}\n"


def test_an_unknown_type_ends_in_a_message_and_no_traceback(tmp_path: Path) -> None:
    outcome = in_a_process(tmp_path, "info", "nowhere")

    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "Error: Unknown barrier type: 'nowhere'. Available types: []\n"


SEARCHING = {
    "list": (("list",), 1),
    "list --json": (("list", "--json"), 1),
    "info": (("info", "alpha"), 2),
    "check": (("check", "-n", "2", "--type", "alpha"), 1),
    "wait": (("wait", "--type", "alpha"), 3),
    "new": (("new", "beta"), 1),
}


@pytest.mark.parametrize(("arguments", "status"), SEARCHING.values(), ids=SEARCHING)
def test_where_nothing_can_be_searched_a_command_says_so_in_one_message(
    barrier: Command, finder: FailingFinder, arguments: tuple[str, ...], status: int
) -> None:
    assert not finder.mended

    outcome = barrier(*arguments)

    assert outcome == Outcome(
        status,
        "",
        "Error: the installed distributions cannot be searched for plugins: "
        "OSError: the package server does not answer\n",
    )


@pytest.mark.parametrize("arguments", [("list",), ("info", "alpha")])
def test_colours_are_for_terminals(site: Site, arguments: tuple[str, ...]) -> None:
    site.install("barrier-alpha", {"alpha": "alpha:Backend"}, "1.2", {"alpha": TALKATIVE})

    piped = in_a_process(site.path, *arguments)
    coloured = in_a_process(site.path, *arguments, FORCE_COLOR="1", TERM="xterm-256color")

    assert "\x1b[" not in piped.out
    assert "\x1b[32mok" in coloured.out


@pytest.mark.parametrize("module", [*(command.__name__ for command in SUBCOMMANDS), "rich"])
def test_a_subcommand_is_imported_when_it_is_asked_for(module: str) -> None:
    script = f"import sys, barrier_core.cli; print({module!r} in sys.modules)"

    output = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert output == "False\n"
