"""The ``barrier`` command. Each subcommand is imported when it is asked for."""

from __future__ import annotations

import logging

import click

from barrier_core.cli.commands import Commands
from barrier_core.cli.output import LogFormatter

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="barrier-core", message="barrier %(version)s")
def main() -> None:
    """Show the barriers that can be used on this machine, and what each one takes."""
    if (
        logging.lastResort is not None
    ):  # what writes warnings to stderr, where nobody set up logging
        logging.lastResort.setFormatter(LogFormatter())
