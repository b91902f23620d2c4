"""``barrier list``: every backend that can be asked for by name, working or broken."""

from __future__ import annotations

import click

from barrier_core.cli.inventory import (
    Backend,
    Observer,
    all_backends,
    all_observers,
    known_but_not_installed,
)
from barrier_core.cli.output import show, show_json, show_table
from barrier_core.discovery.registry import registry


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list instead of a table.")
@click.option("--observers", "observers_only", is_flag=True, help="List the observers alone.")
def command(as_json: bool, observers_only: bool) -> None:
    """List the barriers that are installed.

    Each one is loaded, to see whether it works. A broken one is listed with the reason.

    The exit status is 0, and 1 if what is installed cannot be searched (stderr says why).
    """
    observers = all_observers(registry)
    if observers_only:
        if as_json:
            show_json([observer.as_json() for observer in observers])
        else:
            _show_observers(observers)
        return
    backends = all_backends(registry)
    if as_json:
        show_json([backend.as_json() for backend in backends])
        return
    _show_backends(backends)
    for backend in backends:
        if backend.reason:
            show()
            show(f"{backend.name} is broken: {backend.reason}")
    hints = known_but_not_installed(registry)
    if hints:
        show()
    for name, distribution in hints.items():
        show(f"{name} is not installed: pip install {distribution}")
    if observers:
        show()
        _show_observers(observers)


def _show_backends(backends: list[Backend]) -> None:
    show_table(
        ("TYPE", "DISTRIBUTION", "STATE", "CAPABILITIES"),
        [
            (
                backend.name,
                f"{backend.distribution} {backend.version}".strip() or "(registered by hand)",
                backend.styled_state,
                ", ".join(backend.capabilities) or "-",
            )
            for backend in backends
        ],
    )


def _show_observers(observers: list[Observer]) -> None:
    show_table(
        ("OBSERVER", "DISTRIBUTION", "STATE"),
        [
            (
                observer.name,
                f"{observer.distribution} {observer.version}".strip(),
                f"left out by {observer.left_out_by}" if observer.left_out_by else "used",
            )
            for observer in observers
        ],
    )
