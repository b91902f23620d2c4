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

import os
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, Concatenate, ParamSpec, TypeVar

from barrier_core.testing.child_process import (
    END_SECS,
    ChildProcess,
    RankCall,
    RankEndedError,
    RemoteTracebackError,
    process_id,
)
from barrier_core.testing.ranks import DEFAULT_TIMEOUT_SECS, Call, Ranks, wait_until

__all__ = [
    "RankCall",
    "RankEndedError",
    "RankProcesses",
    "RemoteTracebackError",
    "state",
    "wait_until",
]

P = ParamSpec("P")
T = TypeVar("T")

_START_SECS = 60.0

state: dict[str, Any] = {}
"""In a rank process: what one function leaves for the next."""


class RankProcesses(Ranks):
    """A number of rank processes, started once.

    Args:
        count: Number of ranks.
        timeout_secs: How long to wait for a function that is not told otherwise.
    """

    def __init__(self, count: int, timeout_secs: float = DEFAULT_TIMEOUT_SECS) -> None:
        super().__init__(timeout_secs)
        self._processes = [ChildProcess(rank) for rank in range(count)]
        # However the tests end: multiprocessing would wait for a stopped process for ever.
        self._finalizer = weakref.finalize(self, _end_all, self._processes)
        for call in self.start_all(process_id):
            call.result(_START_SECS)

    def __len__(self) -> int:
        return len(self._processes)

    def close(self) -> None:
        """See `Ranks`: the stopped ones too."""
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
        """See `Ranks`. The function, its arguments and what it returns are pickled."""
        process = self._processes[rank]
        call: RankCall[T] = RankCall(process, function.__name__, self.timeout_secs)
        process.send(call, pickle.dumps((function, args, kwargs)))
        return call

    def start_all(
        self, function: Callable[..., T], *args: Any, ranks: Sequence[int] | None = None
    ) -> list[RankCall[T]]:
        """See `Ranks`."""
        chosen = range(len(self)) if ranks is None else ranks
        return [self.start(rank, function, *args) for rank in chosen]

    def _wait_for_any(self, calls: Sequence[Call[Any]], timeout_secs: float) -> None:
        wait([call.process.pipe for call in calls if isinstance(call, RankCall)], timeout_secs)

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
        self._processes[rank] = ChildProcess(rank)
        self.start(rank, process_id).result(_START_SECS)

    def refresh(self) -> None:
        """See `Ranks`."""
        for rank, process in enumerate(self._processes):
            if process.stopped:
                self.cont(rank)
            while process.calls and process.take_answer(0.0):
                pass
            if process.calls or process.ended or not process.process.is_alive():
                self.replace(rank)


def _end_all(processes: list[ChildProcess]) -> None:
    """End processes: in peace where possible, since they may have something to do at their exit."""
    idle = [process for process in processes if not process.stopped and not process.calls]
    for process in idle:
        process.let_end()
    deadline = time.monotonic() + END_SECS
    for process in idle:
        process.process.join(max(deadline - time.monotonic(), 0.0))
    for process in processes:
        process.kill()
        process.pipe.close()
