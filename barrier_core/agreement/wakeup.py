"""How one thread wakes another, or a signal handler the thread that it has interrupted."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue

from barrier_core.options import LONGEST_WAIT_SECS


class WakeUp:
    """An event that a signal handler may set, and may leave by an exception, at any point.

    Why no `threading.Event`: that guards its flag with a lock. A handler that sets it may find the
    lock taken by the very code that it has interrupted, and one that raises (Ctrl-C) may leave it
    taken for ever. `SimpleQueue.put` is documented as reentrant.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()

    def call(self) -> None:
        """End the wait under way, or else the next one. Any thread may call it."""
        self._calls.put(None)

    def called(self) -> bool:
        """Return whether there is a call."""
        return not self._calls.empty()

    def wait(self, timeout_secs: float | None) -> bool:
        """Wait for a call, and clear all there are by then; False: there was none in time.

        Only one thread may wait. None: wait for as long as it takes. A number of seconds
        is cut to a day.
        """
        if timeout_secs is not None:
            timeout_secs = min(timeout_secs, LONGEST_WAIT_SECS)
        try:
            self._calls.get(timeout=timeout_secs)
        except Empty:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Take back all calls there are."""
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
