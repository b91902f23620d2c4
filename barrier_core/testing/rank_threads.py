"""Ranks as threads of this process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from barrier_core.testing.ranks import DEFAULT_TIMEOUT_SECS, Call, Ranks

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class ThreadCall(Call[T]):
    """A function under way in a rank's thread."""

    def __init__(self, name: str, function: Callable[[], T], timeout_secs: float) -> None:
        self._name = name
        self._function = function
        self._timeout_secs = timeout_secs
        self._ended = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def __str__(self) -> str:
        return self._name

    def run(self) -> None:
        """Run the function; the rank's thread calls this."""
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._ended.set()

    def done(self) -> bool:
        """See `Call`."""
        return self._ended.is_set()

    def error(self, timeout_secs: float | None = None) -> BaseException | None:
        """See `Call`."""
        limit = self._timeout_secs if timeout_secs is None else timeout_secs
        if not self._ended.wait(limit):
            raise self.overdue(limit)
        return self._error

    def overdue(self, limit_secs: float) -> TimeoutError:
        """See `Call`. Its stack is not shown: pytest can show those of this process."""
        return TimeoutError(f"{self} has not ended after {limit_secs:g} s")

    def _returned(self) -> T:
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


class RankThreads(Ranks):
    """A number of rank threads, started once.

    Args:
        count: Number of ranks.
        timeout_secs: How long to wait for a function that is not told otherwise.
    """

    def __init__(self, count: int, timeout_secs: float = DEFAULT_TIMEOUT_SECS) -> None:
        super().__init__(timeout_secs)
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
        """See `Ranks`."""
        name = f"{function.__name__}() on rank {rank}"
        call = ThreadCall(name, lambda: function(rank, *args, **kwargs), self.timeout_secs)
        thread = self._threads[rank]
        thread.last = call
        thread.calls.put(call)
        return call

    def refresh(self) -> None:
        """See `Ranks`: a thread that is busy is left behind."""
        for rank, thread in enumerate(self._threads):
            if thread.last is not None and not thread.last.done():
                thread.calls.put(None)
                self._threads[rank] = _Thread(rank)

    def close(self) -> None:
        """See `Ranks`: only the threads that are idle, or soon are, can be ended."""
        for thread in self._threads:
            thread.calls.put(None)
        for thread in self._threads:
            if thread.last is None or thread.last.done():
                thread.thread.join()


def run_in_threads(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Run ``function(item)`` for all items at once, each in a thread; return the results.

    Raises:
        Exception: What the first function to fail raised.
        TimeoutError: A function has not ended after 30 s.
    """
    with RankThreads(len(items)) as ranks:
        return ranks.run_all(lambda rank: function(items[rank]))
