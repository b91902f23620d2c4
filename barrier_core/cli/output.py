"""How the subcommands write: for people with rich, for programs as JSON."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from barrier_core.cli.backends import Backend


def show(what: RenderableType = "") -> None:
    """Write to stdout: in colour and wrapped on a terminal, plainly into a pipe."""
    console = Console(highlight=False, emoji=False)
    # Into a pipe, a message goes on one line, where it can be searched for.
    console.print(what, soft_wrap=isinstance(what, Text) and not console.is_terminal)


def show_json(value: Any) -> None:
    """Write a value as JSON; what JSON has no form for is written as its ``repr``."""
    encoded = msgspec.json.encode(value, enc_hook=repr)
    click.echo(msgspec.json.format(encoded, indent=2).decode())


def plain(text: str, style: str = "") -> Text:
    """Return a text in which square brackets mean square brackets."""
    return Text(text, style)


def state_text(backend: Backend) -> Text:
    """Return a backend's state, green or red on a terminal."""
    return Text(backend.state, "green" if backend.loaded else "bold red")
