"""What the conformance suite has a rank do, in its thread or in its process."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from barrier_core.contract import Barrier
from barrier_core.hooks import hookimpl, plugin_manager
from barrier_core.testing.rank_processes import wait_until
from barrier_core.verdict import RankStatus

TEST_TIMEOUT_SECS = 60.0
"""The limit that no test is meant to reach."""
_SETTLE_SECS = 0.1


@dataclass(frozen=True)
class Place:
    """Which barrier a rank is asked to make."""

    rank: int
    world_size: int
    name: str
    """Differs from test to test: what backends call ``barrier_prefix``."""
    generation: str = "0"
    """What backends call ``generation``."""
    timeout_secs: float = TEST_TIMEOUT_SECS
    warn_after_secs: float | None = None

    @property
    def slot(self) -> str:
        """Where a rank keeps this barrier."""
        return f"{self.name} {self.generation}"


MakeBarrier = Callable[[Place], Barrier]
"""Makes one rank's barrier, in that rank. Picklable where ranks are processes."""


@dataclass(frozen=True)
class Visit:
    """One call of ``execute_barrier``: when it began and ended, and how."""

    rank: int
    entered: float
    """Monotonic time in seconds, which all processes of a host share."""
    left: float
    round: int
    error: BaseException | None

    def __str__(self) -> str:
        how = "passed" if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return f"round {self.round}: {how}"


class Event(NamedTuple):
    """What an observer has been told."""

    hook: str
    round: int
    tag: str
    missing: tuple[RankStatus, ...] = ()
    error: BaseException | None = None


class Factory:
    """A `MakeBarrier` on its way to a rank.

    A test module need not be importable by its name in a fresh process: it is then loaded from its
    file, before the function in it is unpickled.
    """

    def __init__(self, make: MakeBarrier) -> None:
        target: Any = make
        while isinstance(target, functools.partial):
            target = target.func
        if not hasattr(target, "__qualname__"):
            target = type(target)
        self._module = target.__module__
        self._file = getattr(sys.modules.get(self._module), "__file__", None)
        self._pickled = pickle.dumps(make)

    def load(self) -> MakeBarrier:
        """Return the function, in the rank."""
        try:
            importlib.import_module(self._module)
        except ImportError:
            if self._file is None:
                raise
            spec = importlib.util.spec_from_file_location(self._module, self._file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[self._module] = module
            spec.loader.exec_module(module)
        make: MakeBarrier = pickle.loads(self._pickled)
        return make


_open: dict[tuple[int, str], Barrier] = {}
"""By worker (a rank's thread or process) and slot."""
_recorders: dict[tuple[int, str], Recorder] = {}


def join(worker: int, factory: Factory | MakeBarrier, place: Place) -> tuple[str, int, type]:
    """Make the barrier and keep it; return this rank's host, pid and the barrier's class."""
    make = factory.load() if isinstance(factory, Factory) else factory
    barrier = _open[worker, place.slot] = make(place)
    return barrier.rank_info.host, os.getpid(), type(barrier)


def limits(worker: int, slot: str) -> tuple[float, float | None]:
    """Return the barrier's hard and soft limit."""
    barrier = _open[worker, slot]
    return barrier.timeout_secs, barrier.warn_after_secs


def visit(
    worker: int, slot: str, delays: Sequence[float], timeout_secs: float | None, tag: str
) -> list[Visit]:
    """Go through the barrier once for each of ``delays``, after so many seconds; stop at an error.

    Returns:
        What happened in each round.
    """
    barrier = _open[worker, slot]
    visits: list[Visit] = []
    for delay in delays:
        if delay:
            time.sleep(delay)  # the subject of the test: ranks that come at random times
        visits.append(_watched(worker, barrier, lambda: barrier.execute_barrier(timeout_secs, tag)))
        if visits[-1].error is not None:
            break
    return visits


def visit_after(worker: int, slot: str, when: float, timeout_secs: float | None) -> list[Visit]:
    """Go through the barrier once, at a point of the monotonic clock that all ranks share."""
    return visit(worker, slot, [max(when - time.monotonic(), 0.0)], timeout_secs, "")


class _Visitor:
    """A thread of a rank that goes through the barrier once, and is in it from now on."""

    def __init__(self, worker: int, barrier: Barrier) -> None:
        self._visits: list[Visit] = []
        before = barrier.round
        self._thread = threading.Thread(
            target=lambda: self._visits.append(_watched(worker, barrier, barrier.execute_barrier)),
            daemon=True,
        )
        self._thread.start()
        wait_until(lambda: barrier.round > before, "the thread is in the barrier")

    def visits(self) -> list[Visit]:
        """Wait until it has left the barrier; return what it saw."""
        self._thread.join(TEST_TIMEOUT_SECS)
        return self._visits


_visitors: dict[tuple[int, str], _Visitor] = {}


def visit_while_a_thread_aborts(worker: int, slot: str, reason: str) -> list[Visit]:
    """Abort as soon as another thread of this rank is in the barrier; return what that one saw."""
    visitor = _Visitor(worker, _open[worker, slot])
    _open[worker, slot].abort(reason)
    return visitor.visits()


def arrive_twice_at_once(worker: int, slot: str) -> None:
    """Enter the barrier while another thread of this rank is in it; see `visit_of_thread`."""
    barrier = _open[worker, slot]
    _visitors[worker, slot] = _Visitor(worker, barrier)
    barrier.execute_barrier()


def visit_of_thread(worker: int, slot: str) -> list[Visit]:
    """Wait until the thread of `arrive_twice_at_once` has left; return what it saw."""
    return _visitors.pop((worker, slot)).visits()


def visit_until_interrupted(worker: int, slot: str, timeout_secs: float | None) -> list[Visit]:
    """Go through the barrier once; Ctrl-C is pressed while this rank, a process, waits in it."""
    barrier = _open[worker, slot]
    before = barrier.round

    def press() -> None:
        wait_until(lambda: barrier.round > before, "this rank is in the barrier")
        time.sleep(_SETTLE_SECS)  # nothing tells of an unknown backend that it has begun to wait
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    return [_watched(worker, barrier, lambda: barrier.execute_barrier(timeout_secs))]


def go_through_phase(worker: int, slot: str, tag: str, problem: str) -> list[Visit]:
    """Run a phase; with a ``problem``, leave it by an exception that says so."""
    barrier = _open[worker, slot]

    def phase() -> None:
        with barrier.phase(tag):
            if problem:
                raise OSError(problem)

    return [_watched(worker, barrier, phase)]


def _watched(worker: int, barrier: Barrier, action: Callable[[], None]) -> Visit:
    error = None
    entered = time.monotonic()
    try:
        action()
    except Exception as raised:
        error = raised
    return Visit(worker, entered, time.monotonic(), barrier.round, error)


def call(worker: int, slot: str, method: str, *args: object) -> None:
    """Call one of the barrier's methods."""
    getattr(_open[worker, slot], method)(*args)


def use_as_context(worker: int, slot: str) -> bool:
    """Leave the barrier by the end of a ``with`` block; return whether it is closed then."""
    with _open[worker, slot] as barrier:
        pass
    return barrier.closed


def enter_phase(worker: int, slot: str) -> None:
    """Enter a phase, and leave it by an exception of its own."""
    with _open[worker, slot].phase("undeclared"):
        raise AssertionError("the phase began, although the backend does not declare ABORT")


class Recorder:
    """An observer of one barrier that keeps what it is told; it may also raise."""

    def __init__(self, barrier: Barrier, raises: bool) -> None:
        self._barrier = barrier
        self._raises = raises
        self.events: list[Event] = []

    @hookimpl
    def barrier_enter(self, barrier: Barrier, round: int, tag: str) -> None:
        """See `ObserverSpec`."""
        self._record(barrier, Event("enter", round, tag))

    @hookimpl
    def barrier_waiting(
        self, barrier: Barrier, round: int, tag: str, missing: tuple[RankStatus, ...]
    ) -> None:
        """See `ObserverSpec`."""
        self._record(barrier, Event("waiting", round, tag, missing))

    @hookimpl
    def barrier_exit(self, barrier: Barrier, round: int, tag: str) -> None:
        """See `ObserverSpec`."""
        self._record(barrier, Event("exit", round, tag))

    @hookimpl
    def barrier_failed(self, barrier: Barrier, round: int, tag: str, error: BaseException) -> None:
        """See `ObserverSpec`."""
        self._record(barrier, Event("failed", round, tag, error=error))

    @hookimpl
    def barrier_closed(self, barrier: Barrier) -> None:
        """See `ObserverSpec`."""
        self._record(barrier, Event("closed", barrier.round, ""))

    def _record(self, barrier: Barrier, event: Event) -> None:
        if barrier is self._barrier:
            self.events.append(event)
            if self._raises:
                raise RuntimeError("this observer always raises; the conformance suite wants it so")


def listen(worker: int, slot: str, raises: bool) -> None:
    """Observe the barrier from now on."""
    recorder = _recorders[worker, slot] = Recorder(_open[worker, slot], raises)
    plugin_manager.register(recorder)


def heard(worker: int, slot: str) -> list[Event]:
    """Return what the observer has been told."""
    return _recorders[worker, slot].events


def stop_listening(worker: int) -> None:
    """Take this worker's observers away."""
    for key in [key for key in _recorders if key[0] == worker]:
        plugin_manager.unregister(_recorders.pop(key))


def leave_all(worker: int) -> None:
    """Close every barrier of this worker."""
    for key in [key for key in _open if key[0] == worker]:
        barrier = _open.pop(key)
        with suppress(Exception):
            barrier.close()
