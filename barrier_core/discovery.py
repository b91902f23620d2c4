"""Find plugins in the metadata of installed distributions, and load one of them.

Finding imports nothing. Results are sorted, so nothing depends on the order of the search path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import importlib_metadata

from barrier_core.errors import BarrierPluginError

BACKENDS = "barriers"
OBSERVERS = "barriers.observers"

logger = logging.getLogger("barrier_core")


@dataclass(frozen=True, order=True)
class FoundPlugin:
    """An entry point: what a distribution says it offers."""

    name: str
    distribution: str
    version: str
    value: str

    def __str__(self) -> str:
        return (
            f"entry point {self.name!r} = {self.value!r} of {self.distribution} "
            f"{self.version or '(no version)'}"
        )


def find_plugins(group: str, environ: Mapping[str, str] | None = None) -> list[FoundPlugin]:
    """Return the plugins of a group, sorted by name.

    ``BARRIER_PLUGINS`` (comma-separated names: only these) and ``BARRIER_PLUGINS_BLOCK`` (not
    these) in the environment take effect here, before anything is imported.
    """
    environ = os.environ if environ is None else environ
    allowed, blocked = (
        {name.strip() for name in environ.get(variable, "").split(",") if name.strip()}
        for variable in ("BARRIER_PLUGINS", "BARRIER_PLUGINS_BLOCK")
    )
    return sorted(
        {
            plugin
            for plugin in _scan(group)
            if (not allowed or plugin.name in allowed) and plugin.name not in blocked
        }
    )


def _scan(group: str) -> Iterator[FoundPlugin]:
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        # One distribution with unreadable metadata must cost only itself: importlib_metadata
        # before 10.2 raises on a malformed entry point of any group.
        try:
            name = distribution.name
            version = distribution.version or ""
            entry_points = [found for found in distribution.entry_points if found.group == group]
        except Exception as error:
            logger.warning("skipping a distribution with unreadable metadata: %s", error)
            continue
        # The first one on the path is the one that would be imported.
        if not entry_points or name in seen:
            continue
        seen.add(name)
        for found in entry_points:
            yield FoundPlugin(found.name, name, version, found.value)


def load_plugin(plugin: FoundPlugin) -> object:
    """Import what a plugin's entry point names.

    Raises:
        BarrierPluginError: The import fails, whatever the reason; the cause is chained.
    """
    entry_point = importlib_metadata.EntryPoint(plugin.name, plugin.value, BACKENDS)
    try:
        loaded: object = entry_point.load()
    except Exception as error:
        raise BarrierPluginError(
            f"{plugin} cannot be loaded: {type(error).__name__}: {error}. Repair or uninstall "
            f"{plugin.distribution}, or block it with BARRIER_PLUGINS_BLOCK={plugin.name}"
        ) from error
    return loaded
