"""Ranks as threads, with the calls of `RankProcesses` that a conformance suite needs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ThreadCall(Generic[T]):
    """A function under way in a rank's thread."""

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self._name = name
        self._function = function
        self._ended = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the function; the rank's thread calls this."""
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._ended.set()

    def done(self) -> bool:
        """Whether the function has returned or raised."""
        return self._ended.is_set()

    def error(self, timeout_secs: float | None = None) -> BaseException | None:
        """Wait for the end; return what the function raised, or None if it returned.

        Raises:
            TimeoutError: It has not ended within ``timeout_secs``.
        """
        if not self._ended.wait(timeout_secs):
            raise TimeoutError(f"{self._name} has not ended after {timeout_secs:g} s")
        return self._error

    def result(self, timeout_secs: float | None = None) -> T:
        """Wait for the end; return what the function returned, or raise what it raised.

        Raises:
            TimeoutError: It has not ended within ``timeout_secs``.
        """
        error = self.error(timeout_secs)
        if error is not None:
            raise error
        return self._result  # type: ignore[return-value]  # set, as the function has returned


class _Thread:
    """One rank's thread, and the calls that it has not run."""

    def __init__(self, rank: int) -> None:
        self.calls: queue.SimpleQueue[ThreadCall[Any] | None] = queue.SimpleQueue()
        self.last: ThreadCall[Any] | None = None
        # A daemon: one that hangs in a broken barrier must not hold up the end of the test run.
        self.thread = threading.Thread(target=self._serve, name=f"rank-{rank}", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (call := self.calls.get()) is not None:
            call.run()


class RankThreads:
    """A number of rank threads, started once.

    Args:
        count: Number of ranks.
    """

    def __init__(self, count: int) -> None:
        self._threads = [_Thread(rank) for rank in range(count)]

    def __len__(self) -> int:
        return len(self._threads)

    def start(
        self,
        rank: int,
        function: Callable[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ThreadCall[T]:
        """Start ``function(rank, *args, **kwargs)`` on a rank, after what it is doing already."""
        call = ThreadCall(
            f"{function.__name__}() on rank {rank}", lambda: function(rank, *args, **kwargs)
        )
        thread = self._threads[rank]
        thread.last = call
        thread.calls.put(call)
        return call

    def refresh(self) -> None:
        """Make all ranks ready for the next test: a thread that is busy is left behind."""
        for rank, thread in enumerate(self._threads):
            if thread.last is not None and not thread.last.done():
                thread.calls.put(None)
                self._threads[rank] = _Thread(rank)

    def close(self) -> None:
        """End the threads that are idle."""
        for thread in self._threads:
            thread.calls.put(None)
