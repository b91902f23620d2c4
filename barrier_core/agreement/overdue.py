"""Telling somebody that something takes long, while the thread that does it may be blocked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from barrier_core.options import LONGEST_WAIT_SECS


class Overdue:
    """Tells it after a time, and at doubling intervals, for as long as a block lasts.

    A thread of its own does: whatever the block waits in, it may be one call.

    Args:
        after_secs: The soft limit in seconds; None: nothing is told, and no thread is started.
        tell: Is told how many seconds it has lasted.
    """

    def __init__(self, after_secs: float | None, tell: Callable[[float], None]) -> None:
        self._after_secs = after_secs
        self._tell = tell
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        """Begin."""
        if self._after_secs is None:
            return
        arguments = (self._after_secs, time.monotonic())
        self._thread = threading.Thread(target=self._run, args=arguments, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can be started; the block has its own errors for that
            self._thread = None

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

    def _run(self, after_secs: float, started: float) -> None:
        while True:
            left = max(started + after_secs - time.monotonic(), 0.0)
            if self._is_over.wait(min(left, LONGEST_WAIT_SECS)):
                return
            if left <= LONGEST_WAIT_SECS:
                self._tell(time.monotonic() - started)
                after_secs *= 2
