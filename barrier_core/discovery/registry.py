"""Backends by name: those that are installed, and those registered by hand."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import TypeVar

import pluggy

from barrier_core.capability import Capability
from barrier_core.contract import CONTRACT_VERSION, Barrier
from barrier_core.discovery.finder import (
    BACKENDS,
    OBSERVERS,
    FoundPlugin,
    find_plugins,
    left_out_by,
    load_plugin,
)
from barrier_core.discovery.known_backends import CORE, KNOWN_BACKENDS, OWN_NAMES
from barrier_core.discovery.observer_loading import LIMIT_SECS, InstalledObservers
from barrier_core.errors import BarrierConfigError, BarrierPluginError, UnknownBarrierTypeError
from barrier_core.hooks import plugin_manager
from barrier_core.shown import shown

logger = logging.getLogger("barrier_core")
T = TypeVar("T", bound=type)


class Registry:
    """Finds, loads and holds backends and observers.

    Installed ones are found by their entry points, and imported when somebody asks for them by
    name. What is loaded or registered is in a pluggy ``PluginManager`` under its name. A scan or an
    import that fails is not remembered: the next call tries again.

    Args:
        manager: Where to hold them.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager
        self._installed: dict[str, list[FoundPlugin]] = {}
        self._lock = threading.RLock()
        self._observers = InstalledObservers(manager, self._lock)

    def register(self, backend: T, name: str | None = None) -> T:
        """Register a backend class, under its ``barrier_type`` if no name is given.

        Raises:
            BarrierConfigError: The class has no ``barrier_type`` or no ``execute_barrier``, is
                abstract or registered already, or another class has the name.
        """
        name = name or getattr(backend, "barrier_type", None)
        if not isinstance(name, str) or not name:
            raise BarrierConfigError(
                f"{shown(backend)} cannot be registered: it has no barrier_type; set the class "
                "attribute to the name that users will write in their config"
            )
        fault = _fault(backend)
        if fault:
            raise BarrierConfigError(
                f"{shown(backend)} cannot be registered as {shown(name)}: it {fault}"
            )
        if "@" in name:
            raise BarrierConfigError(
                f"{shown(backend)} cannot be registered as {shown(name)}: '@' stands before the "
                "name of the distribution where two claim a type"
            )
        with self._lock:
            known = self._manager.get_plugin(name)
            if known is backend:
                return backend
            if self._manager.is_registered(backend):
                raise BarrierConfigError(
                    f"{shown(backend)} cannot be registered as {shown(name)}: it is registered as "
                    f"{self._manager.get_name(backend)!r}, and a class has one name"
                )
            if name in OWN_NAMES and backend.__module__.partition(".")[0] != "barrier_core":
                raise BarrierConfigError(
                    f"the barrier type {name!r} is one of {CORE}'s own, which nobody can take "
                    f"over; register {shown(backend)} with another name"
                )
            owner = known or next((found for found in self.found() if found.name == name), None)
            if owner is not None:
                raise BarrierConfigError(
                    f"the barrier type {name!r} is taken by {owner}; register "
                    f"{shown(backend)} with another name"
                )
            self._manager.register(backend, name)
        return backend

    def unregister(self, name: str) -> None:
        """Forget a class registered by hand, or a loaded one (which may be loaded again)."""
        with self._lock:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def installed(self) -> list[FoundPlugin]:
        """Return the installed backends, whether they may be used or not, sorted by name.

        The environment is scanned once; see `refresh`.

        Raises:
            BarrierPluginError: The environment cannot be searched.
        """
        return self._scan(BACKENDS)

    def found(self) -> list[FoundPlugin]:
        """Return the installed backends that may be used, sorted by name.

        Raises:
            BarrierPluginError: The environment cannot be searched.
        """
        with self._lock:
            return [found for found in self.installed() if left_out_by(found) is None]

    def refresh(self) -> None:
        """Scan the environment again when next asked, and see modules that are new."""
        with self._lock:
            self._installed.clear()
            importlib.invalidate_caches()

    def _scan(self, group: str) -> list[FoundPlugin]:
        with self._lock:
            if not self._installed:
                # Both at once: to read the metadata of all distributions is what takes time.
                found = find_plugins(BACKENDS, OBSERVERS)
                for each in (BACKENDS, OBSERVERS):
                    self._installed[each] = [plugin for plugin in found if plugin.group == each]
            return self._installed[group]

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

    def full_names(self) -> list[str]:
        """Return one name for every backend, sorted. Imports nothing.

        It is ``name@distribution`` where the short name stands for another backend, or for none.
        """
        with self._lock:
            found = self.found()
            names = set(self.names()) - {each.name for each in found}
            for each in found:
                alone = self._candidates(each.name) == [each]
                names.add(each.name if alone else each.full_name)
            return sorted(names)

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
            found = self._choose(name)
            fault = _fault_of_name(found)
            if fault:
                raise BarrierPluginError(f"{found} cannot be used: {fault}")
            backend = _classify(found, load_plugin(found))
            # It may be, under its other name: pluggy holds a class under one name only.
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

    def observers(self) -> list[tuple[FoundPlugin, str | None]]:
        """Return the installed observers, sorted by name, and which list leaves each out, if any.

        Imports nothing.

        Raises:
            BarrierPluginError: The environment cannot be searched.
        """
        with self._lock:
            return [(found, left_out_by(found)) for found in self._scan(OBSERVERS)]

    def load_observers(self, limit_secs: float = LIMIT_SECS) -> None:
        """Load the installed observers, each once; whatever is wrong with one is only logged.

        One that is not ready within ``limit_secs`` seconds is left out. It is used from the next
        call on for which it is ready, and waited for no more.
        """
        try:
            wanted = [found for found, objection in self.observers() if objection is None]
        except BarrierPluginError:
            logger.exception("no installed observer is used")
            return
        self._observers.load(wanted, limit_secs)

    def _candidates(self, name: str) -> list[FoundPlugin]:
        """Return what a name, or ``name@distribution``, may stand for."""
        wanted, at, distribution = name.partition("@")
        claims = [
            found
            for found in self.found()
            if found.name == name or (at and found.name == wanted and found.is_of(distribution))
        ]
        # One that must not have this name is an error only where nobody else has the name.
        return [found for found in claims if not _fault_of_name(found)] or claims

    def _choose(self, name: str) -> FoundPlugin:
        candidates = self._candidates(name)
        if not candidates:
            raise UnknownBarrierTypeError(self._unknown(name))
        if len(candidates) == 1:
            return candidates[0]
        text = f"the barrier type {name!r} is claimed twice: by "
        text += " and by ".join(map(str, candidates))
        if len({found.distribution for found in candidates}) > 1:
            text += f'. Choose one with barrier_type = "{candidates[0].full_name}"'
        else:
            text += f". Repair or uninstall {candidates[0].distribution}"
        raise BarrierPluginError(text)

    def _unknown(self, name: str) -> str:
        import difflib  # here: importing the core should cost little

        names = self.names()
        text = f"Unknown barrier type: {shown(name)}. Available types: {names}"
        wanted = name.partition("@")[0]
        for found in self.installed():
            if name in (found.name, found.full_name) or found.name == wanted != name:
                objection = left_out_by(found)
                if objection:
                    return f"{text}. {found.name!r} is installed, but {objection} leaves it out"
        if name in KNOWN_BACKENDS:
            return f"{text}. To get {name!r}: pip install {KNOWN_BACKENDS[name]}"
        near = difflib.get_close_matches(name[:100], [*names, *KNOWN_BACKENDS], n=1)
        if near:
            text += f". Did you mean {near[0]!r}?"
            if near[0] not in names:
                text += f" It is not installed: pip install {KNOWN_BACKENDS[near[0]]}"
        return text


def _fault_of_name(found: FoundPlugin) -> str | None:
    """Return why a distribution may not offer a backend under this name; None if it may."""
    if "@" in found.name:
        return "'@' stands before the name of a distribution, and in no name of a barrier type"
    if found.name in OWN_NAMES and not found.is_of(CORE):
        return (
            f"the barrier type {found.name!r} is one of {CORE}'s own, which nobody can take over. "
            f"Uninstall {found.distribution}, or ask for one with another name"
        )
    return None


def _classify(found: FoundPlugin, loaded: object) -> type:
    """Return what was loaded if it is a backend.

    Raises:
        BarrierPluginError: It is none.
    """
    try:
        fault = _fault(loaded, found.distribution)
        declared = getattr(loaded, "barrier_type", None)
    except (Exception, GeneratorExit) as error:  # a metaclass can make any question fail
        raise BarrierPluginError(
            f"{found} cannot be used: {type(error).__name__}: {error}"
        ) from error
    if fault:
        raise BarrierPluginError(f"{found} cannot be used: {shown(loaded)} {fault}")
    assert isinstance(loaded, type)  # anything else is a fault
    if declared != found.name:
        raise BarrierPluginError(
            f"{found} names a class whose barrier_type is {shown(declared)}; the two must be equal"
        )
    return loaded


def _fault(backend: object, distribution: str = "") -> str | None:
    """Return why ``backend`` cannot be a backend: it must be a class that can be created.

    A class written for torch's own contract passes: it need not derive from our `Barrier`.
    """
    if not isinstance(backend, type):
        return "is not a barrier class: it has no execute_barrier()"
    # First, as another version may ask for other methods.
    fault = _fault_of_version(getattr(backend, "contract_version", None), distribution)
    if fault:
        return fault
    if not callable(getattr(backend, "execute_barrier", None)):
        return "is not a barrier class: it has no execute_barrier()"
    if issubclass(backend, Barrier) and not isinstance(backend.capabilities, Capability):
        return f"has capabilities = {shown(backend.capabilities)}, which must be a Capability"
    unwritten = getattr(backend, "__abstractmethods__", ())
    return f"is abstract: it must write {', '.join(sorted(unwritten))}" if unwritten else None


def _fault_of_version(built_for: object, distribution: str) -> str | None:
    """Return why a class for that version of the contract cannot be used; None if it can.

    A class that names no version is taken as it is: torch's contract has none.
    """
    if built_for is None:
        return None
    if not isinstance(built_for, int) or isinstance(built_for, bool):
        return f"has contract_version = {shown(built_for)}, which must be a whole number"
    if built_for == CONTRACT_VERSION:
        return None
    text = (
        f"is built for version {built_for} of the barrier contract, and the installed {CORE} has "
        f"version {CONTRACT_VERSION}"
    )
    older, newer = CORE, distribution or "backend"
    if built_for > CONTRACT_VERSION:
        older, newer = newer, older
    # `newer` is the one that must become newer.
    return f"{text}: upgrade {newer}, or install an older {older}"


class RegistryView(Mapping[str, type]):
    """A read-only mapping from barrier type to class, under the name that torch gives its own.

    Iterating imports nothing; looking a name up imports its distribution.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __getitem__(self, name: str) -> type:
        if not isinstance(name, str):
            raise KeyError(name)
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
