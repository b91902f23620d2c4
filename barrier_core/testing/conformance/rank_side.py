"""What the conformance suite has a rank do, in its thread or in its process."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple
from unittest import mock

from barrier_core.contract import Barrier
from barrier_core.hooks import hookimpl, plugin_manager
from barrier_core.testing.rank_spec import TEST_TIMEOUT_SECS, Factory, MakeBarrier, RankSpec
from barrier_core.testing.ranks import wait_until
from barrier_core.testing.signal_injection import abort_in_rounds, raise_in_rounds
from barrier_core.verdict import RankStatus

SETTLE_SECS = 0.1


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


_open: dict[tuple[int, str], Barrier] = {}
"""By worker (a rank's thread or process) and key."""
_recorders: dict[tuple[int, str], Recorder] = {}


def join(worker: int, factory: Factory | MakeBarrier, spec: RankSpec) -> tuple[str, int, type]:
    """Make the barrier and keep it; return this rank's host, pid and the barrier's class."""
    barrier = _open[worker, spec.key] = _loaded(factory)(spec)
    return barrier.rank_info.host, os.getpid(), type(barrier)


def _loaded(factory: Factory | MakeBarrier) -> MakeBarrier:
    return factory.load() if isinstance(factory, Factory) else factory


def join_elsewhere(worker: int, factory: Factory | MakeBarrier, spec: RankSpec) -> None:
    """Make the barrier as a process of another machine would: its pid says nothing to the others.

    Returns once another rank is connected to this one, unless the backend looks after no others.
    """
    with mock.patch("barrier_core.agreement.membership.machine_id", return_value="another"):
        join(worker, factory, spec)
    port = getattr(_open[worker, spec.key], "_liveness_port", None)
    if port is not None:
        wait_until(
            lambda: any(port.seen(token) == "open" for token in port.watched()),
            "another rank is connected to this one's liveness port",
        )


def job_id(worker: int, key: str) -> object:
    """Return the id of the job that the barrier was made for."""
    return getattr(_open[worker, key], "job_id", None)


def go_through_signals(
    worker: int, factory: Factory | MakeBarrier, spec: RankSpec, raises: bool, times: int
) -> None:
    """Go through barriers alone, while signal handlers raise or abort."""
    make, numbers = _loaded(factory), itertools.count()

    def make_next() -> Barrier:
        return make(replace(spec, name=f"{spec.name}-{next(numbers)}"))

    if raises:
        raise_in_rounds(make_next, times, may_lose_store=True)
    else:
        abort_in_rounds(make_next, times)


def limits(worker: int, key: str) -> tuple[float, float | None]:
    """Return the barrier's hard and soft limit."""
    barrier = _open[worker, key]
    return barrier.timeout_secs, barrier.warn_after_secs


def visit(
    worker: int, key: str, delays: Sequence[float], timeout_secs: float | None, tag: str
) -> list[Visit]:
    """Go through the barrier once for each of ``delays``, after so many seconds; stop at an error.

    Returns:
        What happened in each round.
    """
    barrier = _open[worker, key]
    visits: list[Visit] = []
    for delay in delays:
        if delay:
            time.sleep(delay)  # the subject of the test: ranks that come at random times
        visits.append(_watched(worker, barrier, lambda: barrier.execute_barrier(timeout_secs, tag)))
        if visits[-1].error is not None:
            break
    return visits


def visit_after(worker: int, key: str, when: float, timeout_secs: float | None) -> list[Visit]:
    """Go through the barrier once, at a point of the monotonic clock that all ranks share."""
    return visit(worker, key, [max(when - time.monotonic(), 0.0)], timeout_secs, "")


class _Entrance:
    """Tells when this rank enters its barrier."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier
        self._entered = threading.Event()
        plugin_manager.register(self)

    @hookimpl
    def barrier_enter(self, barrier: Barrier) -> None:
        """Note it."""
        if barrier is self._barrier:
            self._entered.set()

    def wait(self) -> None:
        """Return once the rank has entered; it may not have begun to wait."""
        assert self._entered.wait(TEST_TIMEOUT_SECS), "no thread has entered the barrier"
        plugin_manager.unregister(self)


class _Visitor:
    """A thread of a rank that goes through the barrier once, and is in it from now on."""

    def __init__(self, worker: int, barrier: Barrier) -> None:
        self._visits: list[Visit] = []
        entrance = _Entrance(barrier)
        self._thread = threading.Thread(
            target=lambda: self._visits.append(_watched(worker, barrier, barrier.execute_barrier)),
            daemon=True,
        )
        self._thread.start()
        entrance.wait()

    def visits(self) -> list[Visit]:
        """Wait until it has left the barrier; return what it saw."""
        self._thread.join(TEST_TIMEOUT_SECS)
        return self._visits


_visitors: dict[tuple[int, str], _Visitor] = {}


def visit_while_a_thread_aborts(worker: int, key: str, reason: str) -> list[Visit]:
    """Abort as soon as another thread of this rank is in the barrier; return what that one saw."""
    visitor = _Visitor(worker, _open[worker, key])
    _open[worker, key].abort(reason)
    return visitor.visits()


def arrive_twice_at_once(worker: int, key: str) -> None:
    """Enter the barrier while another thread of this rank is in it; see `visit_of_thread`."""
    barrier = _open[worker, key]
    _visitors[worker, key] = _Visitor(worker, barrier)
    barrier.execute_barrier()


def visit_of_thread(worker: int, key: str) -> list[Visit]:
    """Wait until the thread of `arrive_twice_at_once` has left; return what it saw."""
    return _visitors.pop((worker, key)).visits()


def visit_until_interrupted(worker: int, key: str, timeout_secs: float | None) -> list[Visit]:
    """Go through the barrier once; Ctrl-C is pressed while this rank, a process, waits in it."""
    barrier = _open[worker, key]
    entrance = _Entrance(barrier)

    def press() -> None:
        entrance.wait()
        time.sleep(SETTLE_SECS)  # nothing tells of an unknown backend that it has begun to wait
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    return [_watched(worker, barrier, lambda: barrier.execute_barrier(timeout_secs))]


def go_through_phase(worker: int, key: str, tag: str, problem: str) -> list[Visit]:
    """Run a phase; with a ``problem``, leave it by an exception that says so."""
    barrier = _open[worker, key]

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


def call(worker: int, key: str, method: str, *args: object) -> None:
    """Call one of the barrier's methods."""
    getattr(_open[worker, key], method)(*args)


def use_as_context(worker: int, key: str) -> bool:
    """Leave the barrier by the end of a ``with`` block; return whether it is closed then."""
    with _open[worker, key] as barrier:
        pass
    return barrier.closed


def enter_phase(worker: int, key: str) -> None:
    """Enter a phase, and leave it by an exception of its own."""
    with _open[worker, key].phase("undeclared"):
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


def listen(worker: int, key: str, raises: bool) -> None:
    """Observe the barrier from now on."""
    recorder = _recorders[worker, key] = Recorder(_open[worker, key], raises)
    plugin_manager.register(recorder)


def heard(worker: int, key: str) -> list[Event]:
    """Return what the observer has been told."""
    return _recorders[worker, key].events


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
