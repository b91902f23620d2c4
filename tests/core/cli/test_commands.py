"""Subcommands that other distributions bring, by the entry-point group ``barriers.commands``."""

from __future__ import annotations

import re
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from barrier_core.cli import main
from barrier_core.cli.commands import BUILT_IN
from tests.core.conftest import FailingFinder, Site
from tests.support.command import Command, Outcome

GREETING = """
import click

print("a command that talks while it is imported")

@click.command("any-name")
@click.argument("whom", default="you")
def command(whom):
    '''Greet WHOM.'''
    click.echo(f"hello {whom}")
"""


def install(
    site: Site, name: str, value: str, distribution: str, modules: dict[str, str] | None = None
) -> None:
    site.install(distribution, f"[barriers.commands]\n{name} = {value}\n", "1.2", modules)


@pytest.fixture
def greet(globally: Site) -> None:
    """The distribution barrier-greeting, with the command ``greet``."""
    install(globally, "greet", "greeting:command", "barrier-greeting", {"greeting": GREETING})


@pytest.mark.usefixtures("greet")
def test_an_installed_command_runs_and_what_its_import_prints_is_not_its_output(
    barrier: Command,
) -> None:
    assert barrier("greet", "gpu-1") == Outcome(
        0, "hello gpu-1\n", "a command that talks while it is imported\n"
    )


@pytest.mark.usefixtures("greet")
def test_the_help_names_a_command_and_its_distribution_and_imports_nothing(
    barrier: Command,
) -> None:
    outcome = barrier("--help")

    assert "greet from barrier-greeting 1.2" in outcome.words
    assert "greeting" not in sys.modules


@pytest.mark.usefixtures("greet")
def test_a_commands_own_help_is_under_the_name_of_its_entry_point(barrier: Command) -> None:
    outcome = barrier("greet", "--help")

    assert "Usage: barrier greet [OPTIONS] [WHOM] Greet WHOM." in outcome.words


@pytest.mark.usefixtures("greet")
def test_other_commands_do_not_import_it(barrier: Command) -> None:
    assert barrier("list").status == 0
    assert "greeting" not in sys.modules


BROKEN = {
    "not there": ("absent:command", "", "ModuleNotFoundError: No module named 'absent'"),
    "raises": ("bad:command", "1 / 0", "ZeroDivisionError"),
    "exits": ("bad:command", "import sys; sys.exit(0)", "SystemExit"),
    "no such name": ("bad:other", "command = None", "AttributeError"),
    "no command": ("bad:command", "command = print", "which is not a click command"),
}


@pytest.mark.usefixtures("greet")
@pytest.mark.parametrize(("value", "source", "fragment"), BROKEN.values(), ids=BROKEN)
def test_a_broken_distribution_costs_its_own_command_only(
    barrier: Command, globally: Site, value: str, source: str, fragment: str
) -> None:
    install(globally, "broken", value, "barrier-bad", {"bad": source})

    outcome = barrier("broken")

    assert (outcome.status, outcome.out) == (1, "")
    assert f"Error: entry point 'broken' = '{value}' of barrier-bad 1.2 cannot be" in outcome.err
    assert fragment in outcome.err
    assert "Repair or uninstall barrier-bad" in outcome.err
    assert "BARRIER_" not in outcome.err  # there is no list of commands to leave out
    assert barrier("greet").status == 0
    assert "broken from barrier-bad 1.2" in barrier("--help").words


@pytest.mark.usefixtures("greet")
def test_two_distributions_that_claim_a_name_are_both_named(
    barrier: Command, globally: Site
) -> None:
    install(globally, "greet", "rival:command", "barrier-rival", {"rival": GREETING})

    outcome = barrier("greet")

    assert (outcome.status, outcome.out) == (2, "")
    assert "the command 'greet' is claimed twice: by " in outcome.err
    assert "of barrier-greeting 1.2 and by " in outcome.err
    assert "of barrier-rival 1.2. Uninstall one of them" in outcome.err
    told = barrier("--help").words
    for distribution in ("greeting", "rival"):
        assert f"from barrier-{distribution} 1.2; not used: another distribution claims" in told


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_distribution_takes_over_a_command_of_the_core(
    barrier: Command, globally: Site, name: str
) -> None:
    install(globally, name, "taker:command", "barrier-taker", {"taker": GREETING})

    outcome = barrier(name, "--help")
    told = barrier("--help").words

    assert outcome.status == 0
    assert "Greet WHOM" not in outcome.out
    assert "taker" not in sys.modules
    assert f"{name} from barrier-taker 1.2; not used: it has the name of a command" in told


def test_an_error_of_barrier_core_that_a_command_does_not_handle_ends_in_its_message(
    barrier: Command, globally: Site
) -> None:
    failing = GREETING.replace("click.echo(", "raise BarrierError(").replace(
        "import click", "import click\nfrom barrier_core import BarrierError"
    )
    install(globally, "fail", "failing:command", "barrier-failing", {"failing": failing})

    outcome = barrier("fail")

    assert outcome.status == 1
    assert outcome.err.endswith("Error: hello you\n")


def test_a_known_command_that_is_not_installed_says_what_to_install(barrier: Command) -> None:
    outcome = barrier("report", "traces")

    assert outcome == Outcome(
        2, "", "Error: `barrier report` is not installed: pip install 'barrier-core[report]'\n"
    )
    assert "pip install 'barrier-core[report]'" in barrier("--help").words


@pytest.mark.usefixtures("greet")
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("lsit", "No such command 'lsit'. Did you mean 'list'?"),
        ("gret", "No such command 'gret'. Did you mean 'greet'?"),
        ("reprot", "No such command 'reprot'. Did you mean 'report'?"),
        ("wat", "No such command 'wat'. Did you mean 'wait'?"),
        ("zzzz", "No such command 'zzzz'.\n"),
    ],
)
def test_an_unknown_command_suggests_names_that_are_near(
    barrier: Command, typed: str, said: str
) -> None:
    outcome = barrier(typed)

    assert (outcome.status, outcome.out) == (2, "")
    assert said in outcome.err
    assert "greeting" not in sys.modules


def test_where_nothing_can_be_searched_the_cores_commands_are_still_there(
    barrier: Command, finder: FailingFinder, caplog: pytest.LogCaptureFixture
) -> None:
    assert not finder.mended

    told = barrier("--help")
    other = barrier("greet")

    assert told.status == 0
    assert "list List the barriers that are installed." in told.words
    assert "only the commands of barrier-core are known: " in caplog.text
    assert other.status == 1
    assert re.match("Error: the installed distributions cannot be searched", other.err)


@pytest.mark.usefixtures("greet", "barrier")
def test_a_shell_completes_names_and_imports_nothing() -> None:
    completion = ShellComplete(main, {}, "barrier", "_BARRIER_COMPLETE")

    names = [item.value for item in completion.get_completions([], "")]

    assert names == sorted([*BUILT_IN, "greet"])
    assert [item.value for item in completion.get_completions([], "gr")] == ["greet"]
    assert "greeting" not in sys.modules
    assert isinstance(main.get_command(click.Context(main), "greet"), click.Command)
