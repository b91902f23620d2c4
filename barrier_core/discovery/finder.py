"""Find plugins in the metadata of installed distributions, and load one of them.

Finding imports nothing. Results are sorted, so nothing depends on the order of the search path.

The environment says which backends may be used: ``BARRIER_PLUGINS`` has the comma-separated names
of the only ones, ``BARRIER_PLUGINS_BLOCK`` of those not to use. Observers have lists of their own,
``BARRIER_OBSERVERS`` and ``BARRIER_OBSERVERS_BLOCK``, as who chooses a backend says nothing about
who may watch it. A name stands for all that claim it, ``name@distribution`` for one of them. What
is left out is never imported.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import importlib_metadata
import msgspec

from barrier_core.errors import BarrierPluginError

BACKENDS = "barriers"
OBSERVERS = "barriers.observers"
COMMANDS = "barriers.commands"

# For each group, the variables that name the plugins to use, and those not to use.
_ALLOW = {BACKENDS: "BARRIER_PLUGINS", OBSERVERS: "BARRIER_OBSERVERS"}
_BLOCK = {group: f"{variable}_BLOCK" for group, variable in _ALLOW.items()}

logger = logging.getLogger("barrier_core")


class FoundPlugin(msgspec.Struct, frozen=True, order=True):
    """An entry point: what a distribution says it offers."""

    name: str
    distribution: str
    version: str
    value: str
    group: str = BACKENDS

    def __str__(self) -> str:
        return (
            f"entry point {self.name!r} = {self.value!r} of {self.distribution} "
            f"{self.version or '(no version)'}"
        )

    @property
    def full_name(self) -> str:
        """The name that tells apart those who claim one name: ``name@distribution``."""
        return f"{self.name}@{self.distribution}"

    def is_of(self, distribution: str) -> bool:
        """Whether a distribution offers it; ``Barrier_File`` and ``barrier-file`` are the same."""
        return _normalized(self.distribution) == _normalized(distribution)


class Selection(msgspec.Struct, frozen=True):
    """Which plugins may be used.

    Args:
        allow: Names of the only ones to use; all if None.
        block: Names of those not to use.
        allow_source: What messages call the first list.
        block_source: What messages call the second.
    """

    allow: frozenset[str] | None = None
    block: frozenset[str] = frozenset()
    allow_source: str = "allow"
    block_source: str = "block"

    @classmethod
    def of_environment(cls, group: str, environ: Mapping[str, str] | None = None) -> Selection:
        """Read the lists for a group of plugins from the environment."""
        environ = os.environ if environ is None else environ
        allow, block = (
            frozenset(_names(environ.get(variable, "").split(",")))
            for variable in (_ALLOW[group], _BLOCK[group])
        )
        # An empty variable is no list, or "BARRIER_PLUGINS= ./train" would turn off all backends.
        return cls(allow or None, block, _ALLOW[group], _BLOCK[group])

    @classmethod
    def of_names(cls, allow: Iterable[str] | None, block: Iterable[str]) -> Selection:
        """Take the lists from code."""
        return cls(None if allow is None else frozenset(_names(allow)), frozenset(_names(block)))

    def objection(self, plugin: FoundPlugin) -> str | None:
        """Return what leaves a plugin out, as in ``BARRIER_PLUGINS=local``; None if nothing."""
        names = {plugin.name, plugin.full_name}
        if not names.isdisjoint(self.block):
            return f"{self.block_source}={','.join(sorted(self.block))}"
        if self.allow is not None and names.isdisjoint(self.allow):
            return f"{self.allow_source}={','.join(sorted(self.allow))}"
        return None


def find_plugins(*groups: str) -> list[FoundPlugin]:
    """Return all installed plugins of some groups, sorted by name, whether they may be used or not.

    Raises:
        BarrierPluginError: The environment cannot be searched at all; the cause is chained.
    """
    try:
        return sorted(set(_scan(groups)))
    except Exception as error:
        raise BarrierPluginError(
            f"the installed distributions cannot be searched for plugins: "
            f"{type(error).__name__}: {error}"
        ) from error


def _scan(groups: Sequence[str]) -> Iterator[FoundPlugin]:
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        name, version = _name_and_version(distribution)
        # The first one on the path is the one that would be imported.
        if name and _normalized(name) in seen:
            continue
        seen.add(_normalized(name))
        name = name or f"(a distribution without a name, in {distribution.locate_file('')})"
        # One distribution with a malformed entry point, of whatever group, must cost only itself.
        try:
            entry_points = [found for found in distribution.entry_points if found.group in groups]
        except Exception as error:
            logger.warning("skipping %s, whose entry_points.txt is malformed: %s", name, error)
            continue
        for found in entry_points:
            yield FoundPlugin(found.name, name, version, found.value, found.group)


def _name_and_version(distribution: Any) -> tuple[str, str]:  # its class differs between versions
    """Return both from the metadata; empty where one, or all metadata, is missing."""
    try:
        metadata = distribution.metadata  # parsed anew each time one asks
        return str(metadata.get("Name") or ""), str(metadata.get("Version") or "")
    except Exception:
        return "", ""


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _names(names: Iterable[str]) -> Iterator[str]:
    return (name.strip() for name in names if name.strip())


def load_plugin(plugin: FoundPlugin) -> object:
    """Import what a plugin's entry point names.

    Raises:
        BarrierPluginError: The import fails, whatever the reason; the cause is chained.
    """
    try:
        entry_point = importlib_metadata.EntryPoint(plugin.name, plugin.value, plugin.group)
        loaded: object = entry_point.load()
    except (Exception, SystemExit) as error:  # a module that ends the process is broken, too
        remedy = f"Repair or uninstall {plugin.distribution}"
        if plugin.group in _BLOCK:
            remedy += f", or block it with {_BLOCK[plugin.group]}={plugin.name}"
        raise BarrierPluginError(
            f"{plugin} cannot be loaded: {type(error).__name__}: {error}. {remedy}"
        ) from error
    return loaded
