"""What observers may listen to, and the pluggy manager that holds observers and backends.

This floor lies below the contract because every barrier, however it was made, tells the observers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from barrier_core.ranks import RankStatus

if TYPE_CHECKING:
    from barrier_core.contract import Barrier
    from barrier_core.errors import BarrierError

PROJECT = "barrier_core"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ObserverSpec:
    """The hooks an observer can implement.

    All run on the rank's own threads, `barrier_waiting` on its second one: keep them short. What
    they raise is logged, but a rank whose observer does not return from a hook is late, or hangs.

    An installed observer is imported and constructed on a thread of its own, before the first
    barrier is made; one that is not ready in time is left out. It may hear of a barrier that was
    made before it, and a call that is interrupted may enter and neither exit nor fail.
    """

    @hookspec
    def barrier_created(self, barrier: Barrier) -> None:
        """Tell that a barrier has been made by ``create_barrier``."""

    @hookspec
    def barrier_enter(self, barrier: Barrier, round: int, tag: str) -> None:
        """Tell that this rank is about to arrive.

        After an interrupted call, the number may be one too high: exit and failure have the right
        one.
        """

    @hookspec
    def barrier_waiting(
        self,
        barrier: Barrier,
        round: int,
        tag: str,
        waited_secs: float,
        missing: tuple[RankStatus, ...],
        spokesman: bool,
    ) -> None:
        """Tell who is missing, after ``warn_after_secs`` and then at widening intervals.

        ``spokesman`` is true on one of the waiting ranks only: the one that should write to a log
        which all ranks share.
        """

    @hookspec
    def barrier_exit(self, barrier: Barrier, round: int, tag: str, waited_secs: float) -> None:
        """Tell that the round has passed."""

    @hookspec
    def barrier_failed(self, barrier: Barrier, round: int, tag: str, error: BarrierError) -> None:
        """Tell that the round is broken; ``error`` is what the caller gets."""

    @hookspec
    def barrier_closed(self, barrier: Barrier) -> None:
        """Tell that the barrier has been closed."""


class ObserverManager(pluggy.PluginManager):
    """A pluggy manager that knows the observer hooks, and whether a round has listeners."""

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.rounds_are_observed = False
        """Kept, since every round asks, and few are observed."""
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
        self.rounds_are_observed = any(hook.get_hookimpls() for hook in hooks)


def new_manager() -> ObserverManager:
    """Return a manager that holds nothing yet."""
    return ObserverManager()


plugin_manager = new_manager()
