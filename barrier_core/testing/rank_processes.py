"""Real rank processes that a test can kill, stop, interrupt and replace.

A few long-lived processes serve a whole test run. Each runs one function after another, in its
main thread, so that Ctrl-C arrives as it does in a job; what a function keeps in `state` is there
for the next one::

    def join(rank: int, world_size: int) -> None:
        state["barrier"] = create_barrier("tcp_store", global_rank=rank, ...)

    def arrive(rank: int) -> None:
        state["barrier"].execute_barrier()

    with RankProcesses(4) as ranks:
        ranks.run_all(join, 4)
        calls = ranks.start_all(arrive, ranks=[0, 1, 2])
        ranks.kill(3)
        assert calls[0].error().verdict.kind == "dead"

Functions and their arguments must be picklable, and the functions' module importable. POSIX only.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_TIMEOUT_SECS = 30.0
_START_SECS = 60.0
_END_SECS = 10.0
_POLL_SECS = 0.005
_SPAWN = multiprocessing.get_context("spawn")

state: dict[str, Any] = {}
"""In a rank process: what one function leaves for the next."""


class RankEndedError(RuntimeError):
    """A rank's process has ended instead of answering."""


class RemoteTracebackError(Exception):
    """The cause of an exception that came from a rank: where it was raised there."""


def wait_until(
    condition: Callable[[], object], what: str, timeout_secs: float = DEFAULT_TIMEOUT_SECS
) -> None:
    """Return once ``condition()`` is true.

    Raises:
        TimeoutError: It is not within ``timeout_secs``; the message says ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout_secs
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_secs:g} s it is still not true that {what}")
        time.sleep(_POLL_SECS)


class RankCall(Generic[T]):
    """A function under way in a rank process."""

    def __init__(self, process: _Process, name: str, timeout_secs: float) -> None:
        self.process = process
        self._name = name
        self._timeout_secs = timeout_secs
        self._result: T | None = None
        self._error: BaseException | None = None
        self._done = False

    def __str__(self) -> str:
        return f"{self._name}() on {self.process}"

    def done(self) -> bool:
        """Whether the function has returned or raised, or its process has ended."""
        while not self._done and self.process.take_answer(0.0):
            pass
        return self._done

    def error(self, timeout_secs: float | None = None) -> BaseException | None:
        """Wait for the end; return what the function raised, or None if it returned.

        Raises:
            TimeoutError: It has not ended within ``timeout_secs``. Its stacks are on stderr.
        """
        limit = self._timeout_secs if timeout_secs is None else timeout_secs
        deadline = time.monotonic() + limit
        while not self._done:
            if not self.process.take_answer(max(deadline - time.monotonic(), 0.0)):
                raise self.overdue(limit)
        return self._error

    def result(self, timeout_secs: float | None = None) -> T:
        """Wait for the end; return what the function returned, or raise what it raised.

        Raises:
            RankEndedError: The process ended first.
            TimeoutError: It has not ended within ``timeout_secs``. Its stacks are on stderr.
        """
        error = self.error(timeout_secs)
        if isinstance(error, Exception):
            raise error
        if error is not None:
            # Raised here, a KeyboardInterrupt would end the whole test run.
            raise RuntimeError(f"{self} raised {error!r}") from error
        return self._result  # type: ignore[return-value]  # set, as the function has returned

    def overdue(self, limit_secs: float) -> TimeoutError:
        """Show the process's stacks; return the error that says that it takes too long."""
        self.process.show_stacks()
        return TimeoutError(f"{self} has not ended after {limit_secs:g} s")

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Take the outcome; the process calls this."""
        self._result, self._error, self._done = result, error, True


class _Process:
    """One rank's process, the pipe to it, and the calls that it has not answered."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.pipe, theirs = _SPAWN.Pipe()
        self.process: SpawnProcess = _SPAWN.Process(
            target=_serve, args=(rank, theirs), name=f"rank-{rank}", daemon=True
        )
        self.process.start()
        theirs.close()
        self.calls: deque[RankCall[Any]] = deque()
        self.stopped = False
        self.ended = False

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.process.pid}{', stopped' if self.stopped else ''})"

    def send(self, call: RankCall[Any], request: bytes) -> None:
        """Ask for a call."""
        try:
            self.pipe.send_bytes(request)
        except OSError:
            raise RankEndedError(f"{self} cannot run {call}: {self._end()}") from None
        self.calls.append(call)

    def take_answer(self, timeout_secs: float) -> bool:
        """Settle the oldest call, or all of them if the process has ended; False if neither."""
        if not self.ended:
            try:
                if not self.pipe.poll(timeout_secs):
                    return False
                result, error, trace = pickle.loads(self.pipe.recv_bytes())
            except (EOFError, OSError):
                self.ended = True
            else:
                if error is not None:
                    error.__cause__ = RemoteTracebackError(f"\n{trace}")
                self.calls.popleft().settle(result, error)
                return True
        while self.calls:
            call = self.calls.popleft()
            call.settle(None, RankEndedError(f"{call} did not come to its end: {self._end()}"))
        return True

    def show_stacks(self) -> None:
        """Have the process print the stacks of all its threads."""
        if not self.ended and not self.stopped:
            self.signal(signal.SIGUSR1)
            time.sleep(0.2)  # let it print before the test's own report

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self.process.is_alive():
            os.kill(self.process.ident or 0, number)

    def let_end(self) -> None:
        """Let the interpreter end as a script's does, once it has done what it was asked for."""
        self.ended = True
        self.pipe.close()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. A stopped process dies as well."""
        self.process.kill()
        self.process.join()
        self.stopped = False

    def _end(self) -> str:
        """Say how the process ended."""
        self.process.join(_END_SECS)
        code = self.process.exitcode
        if code is None:
            return "the process has hung up but still runs"
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        return f"the process exited with code {code}"


class RankProcesses:
    """A number of rank processes, started once.

    Args:
        count: Number of ranks.
        timeout_secs: How long to wait for a function that is not told otherwise.
    """

    def __init__(self, count: int, timeout_secs: float = DEFAULT_TIMEOUT_SECS) -> None:
        self.timeout_secs = timeout_secs
        self._processes = [_Process(rank) for rank in range(count)]
        # However the tests end: multiprocessing would wait for a stopped process for ever.
        self._finalizer = weakref.finalize(self, _end_all, self._processes)
        for call in self.start_all(_pid):
            call.result(_START_SECS)

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> RankProcesses:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, the stopped ones too."""
        self._finalizer()

    def pid(self, rank: int) -> int:
        """Return the pid of a rank's process."""
        return self._processes[rank].process.pid or 0

    def start(
        self,
        rank: int,
        function: Callable[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> RankCall[T]:
        """Start ``function(rank, *args, **kwargs)`` on a rank, after what it is doing already.

        Raises:
            RankEndedError: The rank's process has ended.
        """
        process = self._processes[rank]
        call: RankCall[T] = RankCall(process, function.__name__, self.timeout_secs)
        process.send(call, pickle.dumps((function, args, kwargs)))
        return call

    def run(
        self,
        rank: int,
        function: Callable[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a function on one rank; return what it returns, or raise what it raises."""
        return self.start(rank, function, *args, **kwargs).result()

    def start_all(
        self, function: Callable[..., T], *args: Any, ranks: Sequence[int] | None = None
    ) -> list[RankCall[T]]:
        """Start a function on all ranks, or on some; return their calls, in that order."""
        chosen = range(len(self)) if ranks is None else ranks
        return [self.start(rank, function, *args) for rank in chosen]

    def run_all(
        self, function: Callable[..., T], *args: Any, ranks: Sequence[int] | None = None
    ) -> list[T]:
        """Run a function on all ranks, or on some, at once; return their results.

        Raises:
            Exception: What the first rank to fail raised; the others may still be at it.
            TimeoutError: A rank has not ended in time. Its stacks are on stderr.
        """
        calls = self.start_all(function, *args, ranks=ranks)
        deadline = time.monotonic() + self.timeout_secs
        while True:
            pending = [call for call in calls if not call.done()]
            # One that fails leaves the others waiting for it: not in the order of ranks.
            results = [call.result(0.0) for call in calls if call not in pending]
            if not pending:
                return results
            left = deadline - time.monotonic()
            if left <= 0:
                errors = [call.overdue(self.timeout_secs) for call in pending]  # shows all stacks
                raise errors[0]
            wait([call.process.pipe for call in pending], left)

    def kill(self, rank: int) -> None:
        """Kill a rank (SIGKILL); returns when its process is gone."""
        self._processes[rank].kill()

    def stop(self, rank: int) -> None:
        """Freeze a rank (SIGSTOP); returns when its process stands still."""
        process = self._processes[rank]
        process.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.process.ident or 0, os.WSTOPPED)
        process.stopped = True

    def cont(self, rank: int) -> None:
        """Let a frozen rank go on (SIGCONT)."""
        self._processes[rank].signal(signal.SIGCONT)
        self._processes[rank].stopped = False

    def interrupt(self, rank: int) -> None:
        """Press Ctrl-C on a rank (SIGINT). A rank that runs no function ignores it."""
        self._processes[rank].signal(signal.SIGINT)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a rank another signal."""
        self._processes[rank].signal(number)

    def let_end(self, rank: int) -> None:
        """Let a rank's interpreter end as a script's does, once it has done what was started."""
        self._processes[rank].let_end()

    def exit_code(self, rank: int, timeout_secs: float | None = None) -> int:
        """Wait for the end of a rank's process; return its exit code, negative for a signal.

        Raises:
            TimeoutError: It still runs after ``timeout_secs``.
        """
        process = self._processes[rank]
        limit = self.timeout_secs if timeout_secs is None else timeout_secs
        process.process.join(limit)
        if process.process.exitcode is None:
            process.signal(signal.SIGUSR1)
            raise TimeoutError(f"{process} has not exited after {limit:g} s")
        return process.process.exitcode

    def replace(self, rank: int) -> None:
        """Put a fresh process in a rank's place; what runs there is killed."""
        old = self._processes[rank]
        old.kill()
        old.pipe.close()
        self._processes[rank] = _Process(rank)
        self.start(rank, _pid).result(_START_SECS)

    def refresh(self) -> None:
        """Make all ranks ready for the next test: those that ended or are busy are replaced."""
        for rank, process in enumerate(self._processes):
            if process.stopped:
                self.cont(rank)
            while process.calls and process.take_answer(0.0):
                pass
            if process.calls or process.ended or not process.process.is_alive():
                self.replace(rank)


def _end_all(processes: list[_Process]) -> None:
    """End processes: in peace where possible, since they may have something to do at their exit."""
    idle = [process for process in processes if not process.stopped and not process.calls]
    for process in idle:
        process.let_end()
    deadline = time.monotonic() + _END_SECS
    for process in idle:
        process.process.join(max(deadline - time.monotonic(), 0.0))
    for process in processes:
        process.kill()
        process.pipe.close()


# What runs in a rank process.


def _serve(rank: int, pipe: Connection[Any, Any]) -> None:
    """Run what comes through the pipe until the other end hangs up."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # Ctrl-C is for the functions: between them there is nothing to interrupt.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(rank, pipe.recv_bytes()))


def _answer(rank: int, request: bytes) -> bytes:
    """Run one function; return its pickled result, exception and traceback."""
    try:
        function, args, kwargs = pickle.loads(request)
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            result = function(rank, *args, **kwargs)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return pickle.dumps((result, None, ""))
    except (Exception, KeyboardInterrupt) as error:  # SystemExit ends the process
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        trace = traceback.format_exc()
        try:
            answer = pickle.dumps((None, error, trace))
            pickle.loads(answer)  # an exception may refuse only here
        except Exception:
            return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), trace))
        return answer


def _pid(rank: int) -> int:
    return os.getpid()
