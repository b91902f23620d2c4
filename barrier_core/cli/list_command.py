"""``barrier list``: every backend that can be asked for by name, working or broken."""

from __future__ import annotations

import click
from rich.table import Table

from barrier_core.cli.backends import Backend, all_backends, known_but_not_installed
from barrier_core.cli.output import plain, show, show_json, state_text
from barrier_core.registry import registry


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List the barriers that are installed.

    Each one is loaded, to tell whether it works. One that is broken is listed with the reason.

    The exit status is 0, and 1 if what is installed cannot be searched (stderr says why).
    """
    backends = all_backends(registry)
    if as_json:
        show_json([backend.as_json() for backend in backends])
        return
    show(_table(backends))
    for backend in backends:
        if backend.reason:
            show()
            show(plain(f"{backend.name} is broken: {backend.reason}"))
    hints = known_but_not_installed(registry)
    if hints:
        show()
    for name, distribution in hints.items():
        show(plain(f"{name} is not installed: pip install {distribution}"))


def _table(backends: list[Backend]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("TYPE", "DISTRIBUTION", "STATE", "CAPABILITIES"):
        table.add_column(heading, overflow="fold")
    for backend in backends:
        table.add_row(
            plain(backend.name),
            plain(f"{backend.distribution} {backend.version}".strip() or "(registered by hand)"),
            state_text(backend),
            plain(", ".join(backend.capabilities) or "-"),
        )
    return table
