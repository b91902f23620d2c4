"""The subcommands: the core's own, and those of other distributions, found by entry points.

Finding one reads metadata. Its distribution is imported only when the subcommand is called, or its
own help is asked for.
"""

from __future__ import annotations

import importlib
import logging
import sys
from contextlib import redirect_stdout
from typing import Any

import click
from click.shell_completion import CompletionItem

from barrier_core.cli.exit_status import FailedError, WrongUseError
from barrier_core.cli.output import errors_are_printable
from barrier_core.discovery.finder import COMMANDS, FoundPlugin, find_plugins, load_plugin
from barrier_core.errors import BarrierError, BarrierPluginError

BUILT_IN = {
    "check": "barrier_core.cli.check.check_command",
    "info": "barrier_core.cli.info_command",
    "list": "barrier_core.cli.list_command",
    "new": "barrier_core.cli.new.new_command",
    "wait": "barrier_core.cli.wait_command",
}
"""The core's own, by name: modules that have a ``command``. No distribution can replace one."""

KNOWN_COMMANDS = {"report": "barrier-core[report]"}
"""Known to exist: what to install to get one."""

logger = logging.getLogger("barrier_core")


class Commands(click.Group):
    """A group of the core's subcommands and of those that other distributions bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the name of every subcommand, sorted. Imports none."""
        return sorted({*BUILT_IN, *(found.name for found in _found_or_none())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; return None if there is none of this name.

        Raises:
            click.ClickException: Its distribution is broken, two distributions claim the name, or
                what is installed cannot be searched.
        """
        if cmd_name in BUILT_IN:
            command: click.Command = importlib.import_module(BUILT_IN[cmd_name]).command
            return command
        claims = [found for found in _found() if found.name == cmd_name]
        if len(claims) > 1:
            raise WrongUseError(
                f"the command {cmd_name!r} is claimed twice: by {' and by '.join(map(str, claims))}"
                f". Uninstall one of them"
            )
        return _load(claims[0]) if claims else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand that the arguments begin with; an unknown one ends the program."""
        name, *others = args
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            if name in KNOWN_COMMANDS:
                raise WrongUseError(f"`barrier {name}` is {_not_installed(name)}")
            ctx.fail(_unknown(name, self.list_commands(ctx)))
        return name if command else None, command, others

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands into the help: the core's with what they do, the others by name."""
        built_in = {name: self.get_command(ctx, name) for name in BUILT_IN}
        room = formatter.width - 6 - max(map(len, built_in))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, each.get_short_help_str(room)) for name, each in built_in.items() if each]
            )
        found = _found_or_none()
        others = [(each.name, _origin(each, found)) for each in found]
        missing = KNOWN_COMMANDS.keys() - {each.name for each in found}
        others += [(name, _not_installed(name)) for name in sorted(missing)]
        if others:
            with formatter.section("Commands of other distributions"):
                formatter.write_dl(others)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return names of subcommands without importing them, as click would for their help."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*map(CompletionItem, names), *options]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        with errors_are_printable():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. A `BarrierError` that it does not handle ends in its message."""
        with errors_are_printable():
            try:
                return super().invoke(ctx)
            except BarrierError as error:
                raise FailedError(str(error)) from error


def _found() -> list[FoundPlugin]:
    try:
        return find_plugins(COMMANDS)
    except BarrierPluginError as error:
        raise FailedError(str(error)) from error


def _found_or_none() -> list[FoundPlugin]:
    """Return what is found, for the help, which has something to show in any case."""
    try:
        return find_plugins(COMMANDS)
    except BarrierPluginError as error:
        logger.warning("only the commands of barrier-core are known: %s", error)
        return []


def _load(found: FoundPlugin) -> click.Command:
    try:
        with redirect_stdout(sys.stderr):  # what it prints meanwhile is not part of its answer
            loaded = load_plugin(found)
    except BarrierPluginError as error:
        raise FailedError(str(error)) from error
    if not isinstance(loaded, click.Command):
        raise FailedError(
            f"{found} cannot be used: it names {loaded!r}, which is not a click command. Repair or "
            f"uninstall {found.distribution}"
        )
    return loaded


def _origin(found: FoundPlugin, everyone: list[FoundPlugin]) -> str:
    """Say which distribution a subcommand is from, and why it cannot be called, if so."""
    text = f"from {found.distribution} {found.version}".rstrip()
    if found.name in BUILT_IN:
        return f"{text}; not used: it has the name of a command of barrier-core"
    if sum(other.name == found.name for other in everyone) > 1:
        return f"{text}; not used: another distribution claims the name, too"
    return text


def _not_installed(name: str) -> str:
    return f"not installed: pip install '{KNOWN_COMMANDS[name]}'"


def _unknown(name: str, names: list[str]) -> str:
    import difflib  # here: it is rarely needed

    near = difflib.get_close_matches(name, {*names, *KNOWN_COMMANDS}, n=2, cutoff=0.65)
    text = f"No such command {name!r}."
    return f"{text} Did you mean {' or '.join(map(repr, sorted(near)))}?" if near else text
