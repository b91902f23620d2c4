"""Find plugins in the metadata of installed distributions, and load one of them.

Finding imports nothing. Results are sorted, so nothing depends on the order of the search path.

The environment says which backends may be used: ``BARRIER_PLUGINS`` has the comma-separated names
of the only ones, ``BARRIER_PLUGINS_BLOCK`` of those not to use. Observers have lists of their own,
``BARRIER_OBSERVERS`` and ``BARRIER_OBSERVERS_BLOCK``, because the choice of a backend says nothing
about observers. A name stands for all that claim it, ``name@distribution`` for one of them. What is
left out is never imported.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import importlib_metadata
import msgspec

from barrier_core.discovery.known_backends import CORE
from barrier_core.errors import BarrierPluginError
from barrier_core.version import __version__

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
    requires: tuple[str, ...] = ()
    """What its distribution requires of the core, as in ``barrier-core>=0.1.0``."""

    def __str__(self) -> str:
        return (
            f"entry point {self.name!r} = {self.value!r} of {self.distribution} "
            f"{self.version or '(no version)'}"
        )

    @property
    def full_name(self) -> str:
        """``name@distribution``, which differs where two distributions claim one name."""
        return f"{self.name}@{self.distribution}"

    def is_of(self, distribution: str) -> bool:
        """Whether a distribution offers it; ``Barrier_File`` and ``barrier-file`` are the same."""
        return _normalized(self.distribution) == _normalized(distribution)


def left_out_by(plugin: FoundPlugin) -> str | None:
    """Return the setting that leaves a plugin out, as in ``BARRIER_PLUGINS=local``; None if none.

    The environment is read at each call.
    """
    names = {plugin.name, plugin.full_name}
    allow, block = _ALLOW[plugin.group], _BLOCK[plugin.group]
    blocked = _names_in(block)
    if not names.isdisjoint(blocked):
        return f"{block}={','.join(sorted(blocked))}"
    allowed = _names_in(allow)
    # An empty list leaves out nothing, or "BARRIER_PLUGINS= ./train" would turn off all backends.
    if allowed and names.isdisjoint(allowed):
        return f"{allow}={','.join(sorted(allowed))}"
    return None


def _names_in(variable: str) -> set[str]:
    names = (name.strip() for name in os.environ.get(variable, "").split(","))
    return {name for name in names if name}


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
        name, version, requires = _metadata_of(distribution)
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
            yield FoundPlugin(found.name, name, version, found.value, found.group, requires)


def _metadata_of(distribution: Any) -> tuple[str, str, tuple[str, ...]]:
    """Return name, version and requirements of the core; empty where one, or all, is missing."""
    try:
        metadata = distribution.metadata  # parsed anew each time one asks
        lines = map(str, metadata.get_all("Requires-Dist") or ())
        requires = tuple(line for line in lines if _normalized(line).startswith(CORE))
        return str(metadata.get("Name") or ""), str(metadata.get("Version") or ""), requires
    except Exception:
        return "", "", ()


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def load_plugin(plugin: FoundPlugin) -> object:
    """Import what a plugin's entry point names.

    Raises:
        BarrierPluginError: The distribution needs another version of the core, or the import fails,
            whatever the reason; the cause is chained.
    """
    needed = _needed_core(plugin)
    if needed is not None:
        raise BarrierPluginError(
            f"{plugin} cannot be loaded: it needs {needed}, and version {__version__} is installed."
            f" pip install -U '{needed}'"
        )
    try:
        entry_point = importlib_metadata.EntryPoint(plugin.name, plugin.value, plugin.group)
        loaded: object = entry_point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that ends the process, or a generator, is broken, too
        remedy = f"Repair or uninstall {plugin.distribution}"
        if plugin.group in _BLOCK:
            remedy += f", or block it with {_BLOCK[plugin.group]}={plugin.name}"
        raise BarrierPluginError(
            f"{plugin} cannot be loaded: {type(error).__name__}: {error}. {remedy}"
        ) from error
    return loaded


def _needed_core(plugin: FoundPlugin) -> str | None:
    """Return the requirement of the core that this one does not meet; None if it meets all.

    An installer checks this, too; but the core may have been replaced since, or come by another
    path.
    """
    if not plugin.requires:
        return None
    from packaging.requirements import InvalidRequirement, Requirement  # here: it costs 10 ms

    for line in plugin.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if _normalized(requirement.name) == CORE and not requirement.extras:
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and not requirement.specifier.contains(__version__, prereleases=True):
                return f"{CORE}{requirement.specifier}"
    return None
