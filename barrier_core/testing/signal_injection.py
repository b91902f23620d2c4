"""Signal injection: handlers that run between any two steps of the main thread, in a round.

For the main thread of a process. The signal is SIGALRM, since a timer can send it within
microseconds.
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
from barrier_core.errors import BarrierFailedError, BrokenBarrierError
from barrier_core.verdict import Verdict

_SOONEST_SECS = 5e-6
_LATEST_SECS = 300e-6
"""A few rounds."""


class InjectedError(BaseException):
    """What a signal handler raises, like KeyboardInterrupt."""


def raise_injected() -> None:
    """Be a signal handler that raises.

    Raises:
        InjectedError: Always.
    """
    raise InjectedError


class SignalInjector:
    """Runs a signal handler in the main thread, at random moments.

    Args:
        handler: What is run; it may raise `InjectedError`.
    """

    def __init__(self, handler: Callable[[], object]) -> None:
        self._handler = handler
        self._handled = True

    def __enter__(self) -> SignalInjector:
        # What measures coverage has locks of its own, which an injected error could leave taken.
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
        self._handled = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        sys.settrace(self._tracer)

    def inject_during(self, work: Callable[[], None]) -> None:
        """Do work again and again until the handler has run, once, in the midst of it."""

        def until_handled() -> None:
            # Not until it raises: Python ignores an error that is raised in a destructor.
            self._handled = False
            signal.setitimer(signal.ITIMER_REAL, random.uniform(_SOONEST_SECS, _LATEST_SECS))
            while not self._handled:
                work()
                # On a busy machine, Python 3.11 was seen not to notice a signal before the main
                # thread took the interpreter's lock anew; in a loop of its own, it never does.
                time.sleep(0)

        with suppress(InjectedError):
            # In a function: in Python 3.12 and 3.13 the jump back of `while` is outside the `with`.
            until_handled()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._handled:
            self._handled = True
            self._handler()


def raise_in_rounds(make: Callable[[], Barrier], times: int, may_lose_store: bool = False) -> None:
    """Have handlers raise in rounds: each breaks its round, or none.

    Args:
        make: Makes a new barrier, for one rank alone.
        times: How often a signal is injected.
        may_lose_store: Whether an interrupted question may cost the connection.
    """
    barrier = make()
    with SignalInjector(raise_injected) as injector:
        for _ in range(times):
            # Starts the barrier's thread: `threading` itself does not survive an error in `start`.
            barrier.report_progress("about to be interrupted")
            injector.inject_during(barrier.execute_barrier)
            verdict = _verdict_of_next_round(barrier)
            if verdict is not None:
                is_lost = verdict.kind == "store" and may_lose_store
                told = (verdict.kind, verdict.reason)
                assert is_lost or told == ("abort", "InjectedError"), str(verdict)
                barrier.close()
                barrier = make()
    barrier.close()


def abort_in_rounds(make: Callable[[], Barrier], times: int) -> None:
    """Have handlers abort rounds: the next one, at the latest, is broken.

    Args:
        make: Makes a new barrier, for one rank alone.
        times: How often a signal is injected.
    """

    def work() -> None:
        barrier.execute_barrier()
        barrier.report_progress("shard 12/40")

    with SignalInjector(lambda: barrier.abort("preempted")) as injector:
        for _ in range(times):
            with make() as barrier:
                with suppress(BrokenBarrierError):
                    injector.inject_during(work)
                verdict = _verdict_of_next_round(barrier)
                assert verdict is not None, "an abort by a signal handler was not heeded"
                assert (verdict.kind, verdict.reason) == ("abort", "preempted"), str(verdict)


def _verdict_of_next_round(barrier: Barrier) -> Verdict | None:
    try:
        barrier.execute_barrier()
    except BarrierFailedError as error:
        return error.verdict
    return None
