"""Signal handlers that strike between any two steps of the main thread, while it goes in rounds.

For the main thread of a process of its own: they come by SIGALRM, the only signal that can be had
within microseconds.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType

from barrier_core.contract import Barrier
from barrier_core.errors import BrokenBarrierError
from barrier_core.verdict import Verdict

_SOONEST_SECS = 5e-6
_LATEST_SECS = 300e-6
"""A few rounds."""


class Strike(BaseException):
    """What a signal handler raises, like KeyboardInterrupt."""


def strike() -> None:
    """Be a signal handler that raises.

    Raises:
        Strike: Always.
    """
    raise Strike


class Lightning:
    """Runs a signal handler in the main thread, at random moments.

    Args:
        handler: What is run; it may raise `Strike`.
    """

    def __init__(self, handler: Callable[[], None]) -> None:
        self._handler = handler
        self._struck = True

    def __enter__(self) -> Lightning:
        # What measures coverage has locks of its own, which a strike could leave taken.
        self._tracer = sys.gettrace()
        sys.settrace(None)
        self._before = signal.signal(signal.SIGALRM, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._struck = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        sys.settrace(self._tracer)

    def strikes(self, work: Callable[[], None]) -> None:
        """Do work again and again until the handler has run, once, in the midst of it."""

        def until_struck() -> None:
            # Not until it raises: one that strikes in a destructor is ignored by Python.
            self._struck = False
            signal.setitimer(signal.ITIMER_REAL, random.uniform(_SOONEST_SECS, _LATEST_SECS))
            while not self._struck:
                work()
                # On a busy machine, Python 3.11 was seen not to notice a signal before the main
                # thread took the interpreter's lock anew; in a loop of its own, it never does.
                time.sleep(0)

        with suppress(Strike):
            # In a function: in Python 3.12 and 3.13 the jump back of `while` is outside the `with`.
            until_struck()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._struck:
            self._struck = True
            self._handler()


def raise_in_rounds(make: Callable[[], Barrier], times: int) -> None:
    """Have handlers raise in rounds: each breaks its round, or none.

    Args:
        make: Makes a new barrier, for one rank alone.
        times: How often lightning strikes.
    """
    barrier = make()
    with Lightning(strike) as lightning:
        for _ in range(times):
            # Its thread is there before: `threading` itself does not survive a strike in `start`.
            barrier.report_progress("about to be struck")
            lightning.strikes(barrier.execute_barrier)
            verdict = _verdict_of_next_round(barrier)
            if verdict is not None:
                assert (verdict.kind, verdict.reason) == ("abort", "Strike"), str(verdict)
                barrier.close()
                barrier = make()
    barrier.close()


def abort_in_rounds(make: Callable[[], Barrier], times: int) -> None:
    """Have handlers abort rounds: the next one, at the latest, is broken.

    Args:
        make: Makes a new barrier, for one rank alone.
        times: How often lightning strikes.
    """

    def work() -> None:
        barrier.execute_barrier()
        barrier.report_progress("shard 12/40")

    with Lightning(lambda: barrier.abort("preempted")) as lightning:
        for _ in range(times):
            with make() as barrier:
                with suppress(BrokenBarrierError):
                    lightning.strikes(work)
                verdict = _verdict_of_next_round(barrier)
                assert verdict is not None, "an abort by a signal handler was not heeded"
                assert (verdict.kind, verdict.reason) == ("abort", "preempted"), str(verdict)


def _verdict_of_next_round(barrier: Barrier) -> Verdict | None:
    try:
        barrier.execute_barrier()
    except BrokenBarrierError as error:
        return error.verdict
    return None
