"""Backends by name: those that are installed, and those registered by hand."""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import TypeVar

import pluggy

from barrier_core.discovery import (
    ALLOW,
    BACKENDS,
    BLOCK,
    OBSERVERS,
    FoundPlugin,
    find_plugins,
    load_plugin,
)
from barrier_core.errors import BarrierConfigError, BarrierPluginError, UnknownBarrierTypeError
from barrier_core.hookspecs import plugin_manager
from barrier_core.known_backends import KNOWN_BACKENDS

logger = logging.getLogger("barrier_core")
T = TypeVar("T", bound=type)


class Registry:
    """Finds, loads and holds backends and observers.

    Installed ones are found by their entry points and imported when asked for by name. What is
    loaded or registered lives in a pluggy ``PluginManager`` under its name.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager
        self._found: list[FoundPlugin] | None = None
        self._observers_loaded = False
        self._lock = threading.RLock()

    def register(self, backend: T, name: str | None = None) -> T:
        """Register a backend class, under its ``barrier_type`` if no name is given.

        Raises:
            BarrierConfigError: The class has no ``barrier_type`` or no ``execute_barrier``, is
                abstract or registered already, or another class has the name.
        """
        name = name or getattr(backend, "barrier_type", None)
        if not isinstance(name, str) or not name:
            raise BarrierConfigError(
                f"{backend!r} cannot be registered: it has no barrier_type; set the class "
                "attribute to the name that users will write in their config"
            )
        fault = _fault(backend)
        if fault:
            raise BarrierConfigError(f"{backend!r} cannot be registered as {name!r}: it {fault}")
        if "@" in name:
            raise BarrierConfigError(
                f"{backend!r} cannot be registered as {name!r}: '@' stands before the name of the "
                "distribution where two claim a type"
            )
        with self._lock:
            known = self._manager.get_plugin(name)
            if known is backend:
                return backend
            if self._manager.is_registered(backend):
                raise BarrierConfigError(
                    f"{backend!r} cannot be registered as {name!r}: it is registered as "
                    f"{self._manager.get_name(backend)!r}, and a class has one name"
                )
            owner = known or next((found for found in self.found() if found.name == name), None)
            if owner is not None:
                raise BarrierConfigError(
                    f"the barrier type {name!r} is taken by {owner}; register {backend!r} with "
                    "another name"
                )
            self._manager.register(backend, name)
        return backend

    def unregister(self, name: str) -> None:
        """Forget a class registered by hand, or a loaded one (which may be loaded again)."""
        with self._lock:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def found(self) -> list[FoundPlugin]:
        """Return the installed backends. The environment is scanned once; see `refresh`."""
        with self._lock:
            if self._found is None:
                self._found = find_plugins(BACKENDS)
            return self._found

    def refresh(self) -> None:
        """Scan the environment again when next asked."""
        with self._lock:
            self._found = None

    def names(self) -> list[str]:
        """Return every name that can be asked for, sorted. Imports nothing."""
        with self._lock:
            registered = {
                name
                for name, plugin in self._manager.list_name_plugin()
                # "x@distribution" is only another way to ask for x.
                if isinstance(plugin, type) and "@" not in name
            }
            return sorted(registered | {found.name for found in self.found()})

    def get(self, name: str) -> type:
        """Return the backend class of a name, or of ``name@distribution`` where two claim it.

        Raises:
            UnknownBarrierTypeError: Nothing of this name is installed or registered.
            BarrierPluginError: It is installed but cannot be used, or two distributions claim it.
        """
        with self._lock:
            loaded = self._manager.get_plugin(name)
            if isinstance(loaded, type):
                return loaded
            backend = self._load(self._choose(name))
            # Also asked for as name@distribution: pluggy holds a class under one name only.
            if not self._manager.is_registered(backend):
                self._manager.register(backend, name)
            return backend

    def plugin_of(self, name: str) -> FoundPlugin | None:
        """Return what is installed under a name; None for a class registered by hand.

        Imports nothing.

        Raises:
            UnknownBarrierTypeError: Nothing of this name is installed or registered.
            BarrierPluginError: Two distributions claim the name.
        """
        with self._lock:
            by_hand = isinstance(self._manager.get_plugin(name), type) and not any(
                found.name == name.partition("@")[0] for found in self.found()
            )
            return None if by_hand else self._choose(name)

    def load_observers(self) -> None:
        """Load the installed observers, once. A broken one is logged, never raised."""
        with self._lock:
            if self._observers_loaded:
                return
            self._observers_loaded = True
            for found in find_plugins(OBSERVERS):
                try:
                    observer = load_plugin(found)
                    if isinstance(observer, type):
                        observer = observer()
                    self._manager.register(observer, f"observer {found.name}")
                except Exception:
                    logger.exception("the observer of %s is left out", found)

    def _choose(self, name: str) -> FoundPlugin:
        wanted, _, distribution = name.partition("@")
        candidates = [
            found
            for found in self.found()
            if found.name == wanted and distribution in ("", found.distribution)
        ]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise BarrierPluginError(
                f"the barrier type {name!r} is claimed twice: by "
                + " and by ".join(map(str, candidates))
                + f'. Choose one with barrier_type = "{name}@{candidates[0].distribution}"'
            )
        raise UnknownBarrierTypeError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        names = self.names()
        text = f"Unknown barrier type: {name!r}. Available types: {names}"
        if any(found.name == name for found in find_plugins(BACKENDS, environ={})):
            return f"{text}. {name!r} is installed, but {ALLOW} or {BLOCK} leaves it out"
        if name in KNOWN_BACKENDS:
            return f"{text}. To get {name!r}: pip install {KNOWN_BACKENDS[name]}"
        near = difflib.get_close_matches(name, [*names, *KNOWN_BACKENDS], n=1)
        if near:
            text += f". Did you mean {near[0]!r}?"
            if near[0] not in names:
                text += f" It is not installed: pip install {KNOWN_BACKENDS[near[0]]}"
        return text

    def _load(self, found: FoundPlugin) -> type:
        backend = load_plugin(found)
        fault = _fault(backend)
        if fault:
            raise BarrierPluginError(f"{found} cannot be used: {backend!r} {fault}")
        assert isinstance(backend, type)  # anything else is a fault
        declared = getattr(backend, "barrier_type", None)
        if declared != found.name:
            raise BarrierPluginError(
                f"{found} names a class whose barrier_type is {declared!r}; the two must be equal"
            )
        return backend


def _fault(backend: object) -> str | None:
    """Return why ``backend`` cannot be a backend: it must be a class that can be created.

    A class written for torch's own contract passes: it need not derive from our `Barrier`.
    """
    if not isinstance(backend, type) or not callable(getattr(backend, "execute_barrier", None)):
        return "is not a barrier class: it has no execute_barrier()"
    unwritten = getattr(backend, "__abstractmethods__", ())
    return f"is abstract: it must write {', '.join(sorted(unwritten))}" if unwritten else None


class RegistryView(Mapping[str, type]):
    """A read-only mapping from barrier type to class, under the name that torch gives its own.

    Iterating imports nothing; looking a name up imports its distribution.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __getitem__(self, name: str) -> type:
        try:
            return self._registry.get(name)
        except UnknownBarrierTypeError as error:
            raise KeyError(str(error)) from error

    def __contains__(self, name: object) -> bool:
        return name in self._registry.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names())

    def __len__(self) -> int:
        return len(self._registry.names())

    def __repr__(self) -> str:
        return f"BARRIER_REGISTRY({', '.join(self)})"


registry = Registry(plugin_manager)
BARRIER_REGISTRY: Mapping[str, type] = RegistryView(registry)


def register_barrier(backend: T, name: str | None = None) -> T:
    """Register a backend class by hand; usable as a decorator. See `Registry.register`."""
    return registry.register(backend, name)
