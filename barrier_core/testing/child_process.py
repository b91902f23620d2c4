"""One rank's process: what it is asked, what it answers, and how it ends."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from barrier_core.testing.ranks import Call

T = TypeVar("T")

END_SECS = 10.0
"""How long a process may take to end by itself."""
_SPAWN = multiprocessing.get_context("spawn")


class RankEndedError(RuntimeError):
    """A rank's process has ended instead of answering."""


class RemoteTracebackError(Exception):
    """The cause of an exception that came from a rank: where it was raised there."""


class RankCall(Call[T]):
    """A function under way in a rank process."""

    def __init__(self, process: ChildProcess, name: str, timeout_secs: float) -> None:
        self.process = process
        self._name = name
        self._timeout_secs = timeout_secs
        self._result: T | None = None
        self._error: BaseException | None = None
        self._done = False

    def __str__(self) -> str:
        return f"{self._name}() on {self.process}"

    def done(self) -> bool:
        """See `Call`."""
        while not self._done and self.process.take_answer(0.0):
            pass
        return self._done

    def error(self, timeout_secs: float | None = None) -> BaseException | None:
        """See `Call`. The stacks of a process that takes too long are on stderr."""
        limit = self._timeout_secs if timeout_secs is None else timeout_secs
        deadline = time.monotonic() + limit
        while not self._done:
            if not self.process.take_answer(max(deadline - time.monotonic(), 0.0)):
                raise self.overdue(limit)
        return self._error

    def _returned(self) -> T:
        return self._result  # type: ignore[return-value]  # set, as the function has returned

    def overdue(self, limit_secs: float) -> TimeoutError:
        """Show the process's stacks; return the error that says that it takes too long."""
        self.process.show_stacks()
        return TimeoutError(f"{self} has not ended after {limit_secs:g} s")

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Take the outcome; the process calls this."""
        self._result, self._error, self._done = result, error, True


class ChildProcess:
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
        self.process.join(END_SECS)
        code = self.process.exitcode
        if code is None:
            return "the process has closed its pipe but still runs"
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        return f"the process exited with code {code}"


# What runs in a rank process.


def _serve(rank: int, pipe: Connection[Any, Any]) -> None:
    """Run what comes through the pipe until the other end closes it."""
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


def process_id(rank: int) -> int:
    """Return the pid, in the rank itself."""
    return os.getpid()
