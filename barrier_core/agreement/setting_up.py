"""The log of a set-up that takes long: who waits, for whom, where, and for how long."""

from __future__ import annotations

import logging
import math
import threading
import time
from types import TracebackType

from barrier_core.options import LONGEST_WAIT_SECS

logger = logging.getLogger("barrier_core")


class SettingUp:
    """Logs a line when a set-up has waited for the soft limit, and at widening intervals.

    A thread of its own does it: whatever the set-up waits in, it may be one call. There is no
    barrier yet that an observer could be told of.

    Args:
        rank: Who waits.
        prefix: The barrier's name.
        warn_after_secs: The soft limit in seconds; None: nothing is logged.
        limit_secs: How long it waits at most, in seconds, as far as is known.
        waits_for: What it waits for at first.
    """

    def __init__(
        self,
        rank: int,
        prefix: str,
        warn_after_secs: float | None,
        limit_secs: float,
        waits_for: str,
    ) -> None:
        self.waits_for = waits_for
        """What it waits for now, in words; any thread may change it."""
        self._rank = rank
        self._prefix = prefix
        self._limit = "" if math.isinf(limit_secs) else f"; gives up after {limit_secs:g} s"
        self._started = time.monotonic()
        self._warn_after_secs = warn_after_secs
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> SettingUp:
        """Begin."""
        if self._warn_after_secs is not None:
            self._thread = threading.Thread(target=self._warn, args=(self._warn_after_secs,))
            self._thread.daemon = True
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; the thread has ended on return."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _warn(self, after_secs: float) -> None:
        while True:
            left = max(self._started + after_secs - time.monotonic(), 0.0)
            if self._is_over.wait(min(left, LONGEST_WAIT_SECS)):
                return
            if left <= LONGEST_WAIT_SECS:
                logger.warning(
                    "rank %d has waited for %.0f s to set up %r: %s%s",
                    self._rank,
                    time.monotonic() - self._started,
                    self._prefix,
                    self.waits_for,
                    self._limit,
                )
                after_secs *= 2
