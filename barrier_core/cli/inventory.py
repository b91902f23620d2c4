"""What is installed, as the subcommands show it: backends, broken or not, and observers."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import click

from barrier_core.capability import Capability
from barrier_core.discovery.known_backends import KNOWN_BACKENDS
from barrier_core.discovery.registry import Registry
from barrier_core.errors import BarrierPluginError


@dataclass(frozen=True)
class Backend:
    """A backend that is installed or registered, loaded as far as it can be."""

    name: str
    """What users write as ``barrier_type``: with ``@distribution`` where two claim the name."""
    distribution: str
    """Empty for a class that was registered by hand."""
    version: str
    loaded: type | None
    """None when it is broken."""
    reason: str | None
    """Why it is broken."""

    @property
    def state(self) -> str:
        """``ok`` or ``broken``."""
        return "broken" if self.loaded is None else "ok"

    @property
    def styled_state(self) -> str:
        """The state, green or red on a terminal."""
        if self.loaded is None:
            return click.style(self.state, fg="red", bold=True)
        return click.style(self.state, fg="green")

    @property
    def capabilities(self) -> list[str]:
        """What it declares, in lower case; nothing for a class of torch's own contract."""
        declared = getattr(self.loaded, "capabilities", None)
        return declared.names if isinstance(declared, Capability) else []

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` shows."""
        return {
            "name": self.name,
            "distribution": self.distribution or None,
            "version": self.version or None,
            "state": self.state,
            "reason": self.reason,
            "capabilities": self.capabilities,
        }


def all_backends(registry: Registry) -> list[Backend]:
    """Load every backend, sorted by name. A broken one costs only itself.

    Raises:
        BarrierPluginError: What is installed cannot be searched.
    """
    backends = []
    for name in registry.full_names():
        try:
            backends.append(one_backend(registry, name))
        except BarrierPluginError as error:  # one distribution claims the name twice
            backends.append(Backend(name, name.partition("@")[2], "", None, str(error)))
    return backends


def one_backend(registry: Registry, name: str) -> Backend:
    """Load one backend and import no other. A broken one has the reason.

    Raises:
        UnknownBarrierTypeError: Nothing of this name is installed or registered.
        BarrierPluginError: Two distributions claim the name, or what is installed cannot be
            searched.
    """
    loaded, reason = None, None
    try:
        # What a plugin prints while it is imported is not part of the answer.
        with redirect_stdout(sys.stderr):
            loaded = registry.get(name)
    except BarrierPluginError as error:
        reason = str(error)
    plugin = registry.plugin_of(name)
    if plugin is None:
        return Backend(name, "", "", loaded, reason)
    return Backend(name, plugin.distribution, plugin.version, loaded, reason)


def known_but_not_installed(registry: Registry) -> dict[str, str]:
    """Return the distributions to install, by the type that each would bring."""
    # Without regard to the allow and block lists: what they leave out is installed.
    present = {*registry.names(), *(plugin.name for plugin in registry.installed())}
    return {name: distro for name, distro in KNOWN_BACKENDS.items() if name not in present}


@dataclass(frozen=True)
class Observer:
    """An observer that is installed. It is not loaded, so it is not known whether it works."""

    name: str
    distribution: str
    version: str
    left_out_by: str | None
    """The list in the environment that leaves it out, such as ``BARRIER_OBSERVERS_BLOCK=watch``."""

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` shows."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version or None,
            "left_out_by": self.left_out_by,
        }


def all_observers(registry: Registry) -> list[Observer]:
    """Return every installed observer, sorted by name. Imports none.

    Raises:
        BarrierPluginError: What is installed cannot be searched.
    """
    return [
        Observer(found.name, found.distribution, found.version, objection)
        for found, objection in registry.observers()
    ]
