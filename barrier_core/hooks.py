"""What observers may listen to, and the pluggy manager that holds observers and backends.

This module lies below the contract, because every barrier calls the observers, however it was made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import pluggy

from barrier_core.errors import BarrierError
from barrier_core.launcher import RankInfo
from barrier_core.verdict import RankStatus

logger = logging.getLogger("barrier_core")

PROJECT = "barrier_core"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ObservedBarrier(Protocol):
    """What an observer may read of the barrier that it hears of; every `Barrier` has it."""

    barrier_type: ClassVar[str]
    rank_info: RankInfo
    barrier_prefix: str
    generation: str
    timeout_secs: float
    warn_after_secs: float | None
    round: int
    """Number of the last round that has ended; the first is 1."""


class ObserverSpec:
    """The hooks an observer can implement.

    All run on the rank's own threads, `barrier_waiting` on its second one: keep them short. What
    they raise is logged. A rank whose observer returns late from a hook is late, and a rank whose
    observer does not return hangs.

    An installed observer is imported and constructed on a thread of its own, before the first
    barrier is made; one that is not ready in time is left out. An observer may hear of a barrier
    that was made before it. A call that is interrupted may enter and neither exit nor fail.

    An observer may have a method ``wants_rounds() -> bool``, for times in which it has nothing to
    do. It is asked before each round, so it must return at once. Where all observers of rounds have
    it and say no, none hears that the round begins, or that it passes.
    """

    @hookspec
    def barrier_created(self, barrier: ObservedBarrier) -> None:
        """Called when ``create_barrier`` has made a barrier."""

    @hookspec
    def barrier_enter(self, barrier: ObservedBarrier, round: int, tag: str) -> None:
        """Called when this rank is about to arrive.

        A call that is interrupted before it has arrived uses up no round: the next call enters the
        same one.
        """

    @hookspec
    def barrier_waiting(
        self,
        barrier: ObservedBarrier,
        round: int,
        tag: str,
        waited_secs: float,
        missing: tuple[RankStatus, ...],
        reporter: bool,
    ) -> None:
        """Called after ``warn_after_secs`` of waiting, and then at widening intervals.

        ``missing`` has the ranks that have not arrived, ``waited_secs`` the seconds so far.

        ``reporter`` is true on one of the waiting ranks only: the one that should write to a log
        which all ranks share. Where rank 0 hosts the store and that does not answer, ``missing``
        begins with rank 0, whether it has arrived or not, and ``reporter`` is true on every rank:
        none knows of the others. The hook then runs on the waiting thread.
        """

    @hookspec
    def barrier_exit(
        self, barrier: ObservedBarrier, round: int, tag: str, waited_secs: float
    ) -> None:
        """Called when the round has passed; ``waited_secs`` is this rank's wait in seconds."""

    @hookspec
    def barrier_failed(
        self, barrier: ObservedBarrier, round: int, tag: str, error: BarrierError
    ) -> None:
        """Called when the round is broken, once on every rank; ``error`` is what the caller gets.

        Also called where nobody is in a round: on a rank that aborts between two rounds, or leaves
        a ``phase`` by an exception.
        """

    @hookspec
    def barrier_closed(self, barrier: ObservedBarrier) -> None:
        """Called when the barrier has been closed."""


class ObserverManager(pluggy.PluginManager):
    """A pluggy manager with the observer hooks; it knows whether anyone listens to rounds."""

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.rounds_are_observed = False
        """Stored, because every round asks, and few rounds are observed."""
        self._wants_rounds: list[Callable[[], bool]] = []
        self.add_hookspecs(ObserverSpec)

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """See pluggy."""
        try:
            return super().register(plugin, name)
        finally:
            self._look()

    def unregister(self, plugin: object = None, name: str | None = None) -> object:
        """See pluggy."""
        try:
            return super().unregister(plugin, name)
        finally:
            self._look()

    def _look(self) -> None:
        hooks = (self.hook.barrier_enter, self.hook.barrier_exit)
        observers = {
            id(impl.plugin): impl.plugin for hook in hooks for impl in hook.get_hookimpls()
        }
        asked = [getattr(observer, "wants_rounds", None) for observer in observers.values()]
        self._wants_rounds = [wants for wants in asked if wants is not None]
        # Of another class only where a round has somebody to ask: asking costs it 0.2 us.
        asks = bool(asked) and len(self._wants_rounds) == len(asked)
        self.__class__ = _AskingManager if asks else ObserverManager
        self.rounds_are_observed = bool(asked)


class _AskingManager(ObserverManager):
    """What a manager is while all who listen to rounds have a ``wants_rounds``."""

    @property
    def rounds_are_observed(self) -> bool:
        """Whether one of them wants the round that begins."""
        try:
            for wants in self._wants_rounds:  # noqa: SIM110 - a generator takes twice as long
                if wants():
                    return True
            return False
        except Exception:
            logger.exception("an observer failed in wants_rounds; going on with it")
            return True

    @rounds_are_observed.setter
    def rounds_are_observed(self, _: bool) -> None:
        pass


def new_manager() -> ObserverManager:
    """Return a manager that holds nothing yet."""
    return ObserverManager()


plugin_manager = new_manager()


def notify(hook_name: str, **event: Any) -> None:
    """Call every observer of a hook. What one raises is logged, and the others are still called.

    Observers are called one by one and not through the pluggy hook, where the first that raises
    would hide the event from the rest.
    """
    for impl in getattr(plugin_manager.hook, hook_name).get_hookimpls():
        try:
            impl.function(*[event[name] for name in impl.argnames])
        except Exception:
            logger.exception("observer %s failed in %s; going on", impl.plugin_name, hook_name)
