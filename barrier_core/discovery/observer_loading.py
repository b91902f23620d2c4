"""Installed observers: imported and constructed so that none can break a barrier or hold it up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

import pluggy

from barrier_core.discovery.finder import FoundPlugin, load_plugin
from barrier_core.hooks import new_manager

logger = logging.getLogger("barrier_core")

LIMIT_SECS = 10.0
"""How long a barrier waits for one observer that is being made. Generous, as a shared file system
may need seconds for an import, and a hang costs a process this once."""


class InstalledObservers:
    """Loads installed observers, each once, and registers them.

    Args:
        manager: Where to register them.
        lock: Guards the manager. Never held while an observer's code runs.
    """

    def __init__(self, manager: pluggy.PluginManager, lock: threading.RLock) -> None:
        self._manager = manager
        self._lock = lock
        self._observing: set[FoundPlugin] = set()
        self._loading: dict[FoundPlugin, _Loading] = {}

    def load(self, wanted: Iterable[FoundPlugin], limit_secs: float) -> None:
        """Load what is not loaded yet; whatever is wrong with one is logged. See `Registry`."""
        # One after the other: two imports at once may each need what the other has half done.
        for found in wanted:
            loading = self._start(found, limit_secs)
            if loading is not None:
                loading.wait()
                self._settle(loading)

    def _start(self, found: FoundPlugin, limit_secs: float) -> _Loading | None:
        """Return the loading of an observer, new or under way; None if there is nothing to do."""
        with self._lock:
            if found in self._observing or self._is_replaced(found):
                return None
            if found not in self._loading:
                try:
                    self._loading[found] = _Loading(found, limit_secs)
                except RuntimeError:  # no thread can be started, as the interpreter is ending
                    logger.exception("the observer of %s is left out", found)
                    return None
            return self._loading[found]

    def _is_replaced(self, found: FoundPlugin) -> bool:
        """Whether the user has registered an observer of their own under this one's name."""
        return self._manager.has_plugin(_name(found)) and all(
            other.name != found.name for other in self._observing
        )

    def _settle(self, loading: _Loading) -> None:
        """Register an observer that is ready, or say why there is none."""
        found = loading.found
        with self._lock:
            if self._loading.get(found) is not loading:
                return  # another thread has waited for it, too
            if not loading.ready:
                if not loading.overdue:
                    loading.overdue = True
                    logger.warning(
                        "the observer of %s is left out: it takes too long to be made. Barriers "
                        "that are made once it is ready use it; if it hangs, block it with "
                        "BARRIER_OBSERVERS_BLOCK=%s",
                        found,
                        found.name,
                    )
                return
            del self._loading[found]
            if loading.error is not None:
                logger.error("the observer of %s is left out", found, exc_info=loading.error)
                return
            try:
                self._manager.register(loading.observer, _name(found))
            except ValueError:  # the name is taken, or the observer registered under another one
                logger.exception("the observer of %s is left out", found)
                return
            self._observing.add(found)


def _name(found: FoundPlugin) -> str:
    """Return what pluggy calls an observer."""
    return f"observer {found.name}"


class _Loading:
    """One observer that is being imported and constructed, on a thread of its own.

    Whatever its code raises is kept here, and a hang holds no lock of ours. It only makes the
    observer: whoever waited registers it, so that an observer which is ready late never begins in
    the middle of a round.

    In a forked child the thread does not exist, and the observer is never ready. It is not tried
    again there: the module that was being imported is locked for good.

    Args:
        found: What to load.
        limit_secs: How long, in seconds from now, `wait` waits at most.

    Raises:
        RuntimeError: No thread can be started.
    """

    def __init__(self, found: FoundPlugin, limit_secs: float) -> None:
        self.found = found
        self.observer: object = None
        self.error: BaseException | None = None
        """What its code raised; one that wants to end the process is broken like any other."""
        self.ready = False
        """Whether `observer` or `error` is set. Why this is safe: it is set last."""
        self.overdue = False
        """Whether the user has been told that it takes too long."""
        self._deadline = time.monotonic() + limit_secs
        self._thread = threading.Thread(
            target=self._run, name=f"barrier-observer-{found.name}", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when it is ready, or when the time is up, which it may be already."""
        if threading.current_thread() is not self._thread:  # its own code may make a barrier
            self._thread.join(max(self._deadline - time.monotonic(), 0.0))

    def _run(self) -> None:
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
