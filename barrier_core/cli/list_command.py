"""``barrier list``: every backend that can be asked for by name, working or broken."""

from __future__ import annotations

import click
from rich.table import Table

from barrier_core.cli.backends import (
    Backend,
    Observer,
    all_backends,
    all_observers,
    known_but_not_installed,
)
from barrier_core.cli.output import plain, show, show_json, state_text
from barrier_core.discovery.registry import registry


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list instead of a table.")
@click.option("--observers", "observers_only", is_flag=True, help="List the observers alone.")
def command(as_json: bool, observers_only: bool) -> None:
    """List the barriers that are installed.

    Each one is loaded, to tell whether it works. One that is broken is listed with the reason.

    The exit status is 0, and 1 if what is installed cannot be searched (stderr says why).
    """
    observers = all_observers(registry)
    if observers_only:
        if as_json:
            show_json([observer.as_json() for observer in observers])
        else:
            show(_observer_table(observers))
        return
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
    if observers:
        show()
        show(_observer_table(observers))


def _table(backends: list[Backend]) -> Table:
    table = _empty_table("TYPE", "DISTRIBUTION", "STATE", "CAPABILITIES")
    for backend in backends:
        table.add_row(
            plain(backend.name),
            plain(f"{backend.distribution} {backend.version}".strip() or "(registered by hand)"),
            state_text(backend),
            plain(", ".join(backend.capabilities) or "-"),
        )
    return table


def _observer_table(observers: list[Observer]) -> Table:
    table = _empty_table("OBSERVER", "DISTRIBUTION", "STATE")
    for observer in observers:
        table.add_row(
            plain(observer.name),
            plain(f"{observer.distribution} {observer.version}".strip()),
            plain(f"left out by {observer.left_out_by}" if observer.left_out_by else "used"),
        )
    return table


def _empty_table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
