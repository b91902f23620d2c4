"""The ``barrier`` command. Each subcommand has a file of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

import click

from barrier_core.errors import BarrierError

__all__ = ["main"]

BUILT_IN = {
    "check": "barrier_core.cli.check.check_command",
    "info": "barrier_core.cli.info_command",
    "list": "barrier_core.cli.list_command",
    "new": "barrier_core.cli.new.new_command",
    "report": "barrier_core.cli.report_command",
    "wait": "barrier_core.cli.wait_command",
}


class _LazyGroup(click.Group):
    """A group whose subcommands are the ``command`` of the modules that it names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BUILT_IN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BUILT_IN:
            return None
        command: click.Command = importlib.import_module(BUILT_IN[cmd_name]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BarrierError as error:  # what a subcommand does not tell in words of its own
            raise click.ClickException(str(error)) from error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="barrier-core", message="barrier %(version)s")
def main() -> None:
    """Show the barriers that can be used on this machine, and what each one takes."""
