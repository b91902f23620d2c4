"""How the subcommands end when they do not succeed."""

from __future__ import annotations

import click


class FailedError(click.ClickException):
    """Ends a command: what it was asked to do has failed."""

    exit_code = 1


class WrongUseError(click.ClickException):
    """Ends a command: its command line, the config or the environment is wrong."""

    exit_code = 2
