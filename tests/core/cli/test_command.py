"""The ``barrier`` command itself: its help, its version, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import importlib_metadata
import pytest

from barrier_core.cli.commands import BUILT_IN
from tests.core.cli.conftest import TALKATIVE
from tests.core.conftest import FailingFinder, Site
from tests.support.command import Command, Outcome, in_a_process
from tests.support.environments import ROOT


def test_help_names_the_subcommands(barrier: Command) -> None:
    outcome = barrier("--help")

    assert outcome.status == 0
    assert "list List the barriers that are installed." in outcome.words
    assert "info Show one barrier TYPE and the options it takes." in outcome.words
    assert "check Go through a barrier many times, and show how long that takes." in outcome.words
    assert "wait Wait until every rank has arrived." in outcome.words


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


@pytest.mark.parametrize("module", [*BUILT_IN.values(), "rich"])
def test_a_subcommand_is_imported_when_it_is_asked_for(module: str) -> None:
    script = f"import sys, barrier_core.cli; print({module!r} in sys.modules)"

    output = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert output == "False\n"
