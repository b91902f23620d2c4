"""How one thread wakes another, or a signal handler the thread that it has interrupted."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from barrier_core.options import LONGEST_WAIT_SECS


class WakeUp:
    """An event that a signal handler may set, and may leave by an exception, at any point.

    Why no `threading.Event`: that guards its flag with a lock. A handler that sets it may find the
    lock taken by the very code that it has interrupted, and one that raises (Ctrl-C) may leave it
    taken for ever. Here the lock is the flag, taken while there is no call, and each method is one
    operation on it. Why no `queue.SimpleQueue`: in Python 3.11, a ``get`` that a signal handler
    interrupts for longer than its time limit then waits for ever.
    """

    def __init__(self) -> None:
        self._no_call = threading.Lock()
        self._no_call.acquire()

    def call(self) -> None:
        """End the wait under way, or else the next one. Any thread may call it."""
        with suppress(RuntimeError):  # there is a call already
            self._no_call.release()

    def called(self) -> bool:
        """Return whether there is a call."""
        return not self._no_call.locked()

    def wait(self, timeout_secs: float | None) -> bool:
        """Wait for a call, and clear all there are by then; False: there was none in time.

        Only one thread may wait. None: wait for as long as it takes. A number of seconds
        is cut to a day.
        """
        if timeout_secs is None:
            return self._no_call.acquire()
        return self._no_call.acquire(timeout=min(max(timeout_secs, 0.0), LONGEST_WAIT_SECS))

    def clear(self) -> None:
        """Take back all calls there are."""
        self._no_call.acquire(blocking=False)

    def close(self) -> None:
        """Give back what the system has lent for it. A call does nothing any more."""


class PollableWakeUp(WakeUp):
    """One that a wait in ``poll`` hears of: its descriptor can be read while there is a call."""

    def __init__(self) -> None:
        super().__init__()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def descriptor(self) -> int:
        """Return what to poll, for reading."""
        return self._reader

    def call(self) -> None:
        """See `WakeUp`."""
        super().call()
        with suppress(OSError):  # closed, or so full that the wait ends anyway
            os.write(self._writer, b"w")

    def clear(self) -> None:
        """See `WakeUp`."""
        with suppress(OSError):
            os.read(self._reader, 4096)
        super().clear()

    def close(self) -> None:
        """See `WakeUp`. A second time does nothing."""
        descriptors = self._reader, self._writer
        self._reader = self._writer = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
