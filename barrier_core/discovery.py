"""Find plugins in the metadata of installed distributions, and load one of them.

Finding imports nothing. Results are sorted, so nothing depends on the order of the search path.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import importlib_metadata

from barrier_core.errors import BarrierPluginError

BACKENDS = "barriers"
OBSERVERS = "barriers.observers"

# Comma-separated names of the only plugins to use, and of plugins not to use.
ALLOW = "BARRIER_PLUGINS"
BLOCK = "BARRIER_PLUGINS_BLOCK"

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
        for variable in (ALLOW, BLOCK)
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
        name = _field(distribution, "Name")
        # The first one on the path is the one that would be imported.
        normalized = re.sub(r"[-_.]+", "-", name).lower()
        if normalized and normalized in seen:
            continue
        seen.add(normalized)
        name = name or f"(a distribution without a name, in {distribution.locate_file('')})"
        # One distribution with a malformed entry point, of whatever group, must cost only itself.
        try:
            entry_points = [found for found in distribution.entry_points if found.group == group]
        except Exception as error:
            logger.warning("skipping %s, whose entry_points.txt is malformed: %s", name, error)
            continue
        for found in entry_points:
            yield FoundPlugin(found.name, name, _field(distribution, "Version"), found.value)


def _field(distribution: Any, name: str) -> str:  # its class differs between the library's versions
    """Return a field of the metadata; empty where it, or all metadata, is missing."""
    try:
        return str(distribution.metadata[name] or "")
    except Exception:
        return ""


def load_plugin(plugin: FoundPlugin) -> object:
    """Import what a plugin's entry point names.

    Raises:
        BarrierPluginError: The import fails, whatever the reason; the cause is chained.
    """
    try:
        entry_point = importlib_metadata.EntryPoint(plugin.name, plugin.value, BACKENDS)
        loaded: object = entry_point.load()
    except (Exception, SystemExit) as error:  # a module that ends the process is broken, too
        raise BarrierPluginError(
            f"{plugin} cannot be loaded: {type(error).__name__}: {error}. Repair or uninstall "
            f"{plugin.distribution}, or block it with {BLOCK}={plugin.name}"
        ) from error
    return loaded
