"""The ``barrier`` command. Each subcommand is imported when it is asked for."""

from __future__ import annotations

import click

from barrier_core.cli.commands import Commands

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="barrier-core", message="barrier %(version)s")
def main() -> None:
    """Show the barriers that can be used on this machine, and what each one takes."""
