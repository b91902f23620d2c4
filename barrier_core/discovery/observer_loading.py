"""Installed observers: imported and constructed so that none can break a barrier or hold it up.

Each is made on a thread of its own, since nothing else bounds the time of somebody else's code: an
import takes no timeout, a signal reaches the main thread only and is the user's to handle, and a
process of its own could not hand the observer over. A thread that hangs is left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

import pluggy

from barrier_core.discovery.finder import FoundPlugin, load_plugin
from barrier_core.errors import BarrierPluginError
from barrier_core.hooks import new_manager

logger = logging.getLogger("barrier_core")

LIMIT_SECS = 10.0
"""How long a barrier waits for one observer that is being made. Generous, as a shared file system
may need seconds for an import, and a hang costs a process this once."""


class InstalledObservers:
    """Makes installed observers, each once, and registers them.

    Args:
        manager: Where to register them.
        lock: Guards the manager. Never held while an observer is imported or constructed.
    """

    def __init__(self, manager: pluggy.PluginManager, lock: threading.RLock) -> None:
        self._manager = manager
        self._lock = lock
        self._registered: set[FoundPlugin] = set()
        self._being_made: dict[FoundPlugin, _Making] = {}

    def load(self, wanted: Iterable[FoundPlugin], limit_secs: float) -> None:
        """Load what is not loaded yet; whatever is wrong with one is logged. See `Registry`."""
        # One after the other: two imports at once may each need what the other has half done.
        for found in wanted:
            try:
                making = self._making_of(found, limit_secs)
                if making is not None:
                    making.wait()
                    self._register(making)
            except Exception:
                logger.exception("the observer of %s is left out", found)

    def _making_of(self, found: FoundPlugin, limit_secs: float) -> _Making | None:
        """Return the making of an observer, new or under way; None if there is nothing to do."""
        with self._lock:
            if found in self._registered or self._is_replaced(found):
                return None
            if found not in self._being_made:
                self._being_made[found] = _Making(found, limit_secs)
            return self._being_made[found]

    def _is_replaced(self, found: FoundPlugin) -> bool:
        """Whether the user has registered an observer of their own under this one's name."""
        return self._manager.has_plugin(_name(found)) and all(
            other.name != found.name for other in self._registered
        )

    def _register(self, making: _Making) -> None:
        """Register an observer that is ready; warn once about one that takes too long.

        Raises:
            BarrierPluginError: Its code raised something; the cause is chained.
            ValueError: The name is taken, or the observer is registered under another one.
        """
        found = making.found
        with self._lock:
            if self._being_made.get(found) is not making:
                return  # another thread has waited for it, too
            if making.ready:
                del self._being_made[found]
                if making.error is not None:
                    raise BarrierPluginError(f"{found} cannot be made") from making.error
                self._manager.register(making.observer, _name(found))
                self._registered.add(found)
            elif not making.warned:
                making.warned = True
                logger.warning(
                    "the observer of %s is left out: it takes too long to be made. Barriers that "
                    "are made once it is ready use it; if it hangs, block it with "
                    "BARRIER_OBSERVERS_BLOCK=%s",
                    found,
                    found.name,
                )


def _name(found: FoundPlugin) -> str:
    """Return what pluggy calls an observer."""
    return f"observer {found.name}"


class _Making:
    """One observer that is being imported and constructed, on a thread of its own.

    The thread registers nothing: whoever waited does, so that an observer which is ready late never
    begins in the middle of a round.

    A forked child does not have the thread. There the observer is never ready, and nobody tries
    again: the module that was being imported is locked for good.

    Args:
        found: What to load.
        limit_secs: How long, in seconds from now, `wait` waits at most.

    Raises:
        RuntimeError: No thread can be started, as the interpreter is ending.
    """

    def __init__(self, found: FoundPlugin, limit_secs: float) -> None:
        self.found = found
        self.observer: object = None
        self.error: BaseException | None = None
        """What its code raised; one that wants to end the process is broken like any other."""
        self.ready = False
        """Whether `observer` or `error` is set. Why this is safe: it is set last."""
        self.warned = False
        """Whether the log says that it takes too long."""
        self._deadline = time.monotonic() + limit_secs
        self._thread = threading.Thread(
            target=self._make, name=f"barrier-observer-{found.name}", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when it is ready, or when the time is up, which it may be already."""
        if threading.current_thread() is not self._thread:  # its own code may make a barrier
            self._thread.join(max(self._deadline - time.monotonic(), 0.0))

    def _make(self) -> None:
        try:
            observer = load_plugin(self.found)
            if isinstance(observer, type):
                observer = observer()
            # On trial: before pluggy 1.7, half of an observer that it refuses stays registered.
            new_manager().register(observer)
            self.observer = observer
        except BaseException as error:
            self.error = error
        self.ready = True
