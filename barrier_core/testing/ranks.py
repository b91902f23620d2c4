"""What ranks have in common that are threads or processes: functions are started on them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Self = TypeVar("Self", bound="Ranks")

DEFAULT_TIMEOUT_SECS = 30.0
_POLL_SECS = 0.005


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


class Call(ABC, Generic[T]):
    """A function under way on a rank."""

    @abstractmethod
    def done(self) -> bool:
        """Whether the function has returned or raised, or its rank has ended."""

    @abstractmethod
    def error(self, timeout_secs: float | None = None) -> BaseException | None:
        """Wait for the end; return what the function raised, or None if it returned.

        Args:
            timeout_secs: How long to wait; as long as the ranks were told if not given.

        Raises:
            TimeoutError: It has not ended in time.
        """

    @abstractmethod
    def overdue(self, limit_secs: float) -> TimeoutError:
        """Show what the rank is doing; return the error that says that it takes too long."""

    @abstractmethod
    def _returned(self) -> T:
        """Return what the function returned; it has."""

    def result(self, timeout_secs: float | None = None) -> T:
        """Wait for the end; return what the function returned, or raise what it raised.

        Args:
            timeout_secs: How long to wait; as long as the ranks were told if not given.

        Raises:
            RankEndedError: The rank's process ended first.
            RuntimeError: The function raised a KeyboardInterrupt or SystemExit, which is the cause.
            TimeoutError: It has not ended in time.
        """
        error = self.error(timeout_secs)
        if isinstance(error, Exception):
            raise error
        if error is not None:
            # Raised here, a KeyboardInterrupt would end the whole test run.
            raise RuntimeError(f"{self} raised {error!r}") from error
        return self._returned()


class Ranks(ABC):
    """A number of ranks, started once, which run one function after another.

    Args:
        timeout_secs: How long to wait for a function that is not told otherwise.
    """

    def __init__(self, timeout_secs: float) -> None:
        self.timeout_secs = timeout_secs

    @abstractmethod
    def __len__(self) -> int: ...

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def start(
        self,
        rank: int,
        function: Callable[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Call[T]:
        """Start ``function(rank, *args, **kwargs)`` on a rank, after what it is doing already.

        Raises:
            RankEndedError: The rank's process has ended.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Make all ranks ready for the next test: those that ended or are busy are replaced."""

    @abstractmethod
    def close(self) -> None:
        """End all ranks."""

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
    ) -> Sequence[Call[T]]:
        """Start a function on all ranks, or on some; return their calls, in that order."""
        chosen = range(len(self)) if ranks is None else ranks
        return [self.start(rank, function, *args) for rank in chosen]

    def run_all(
        self, function: Callable[..., T], *args: Any, ranks: Sequence[int] | None = None
    ) -> list[T]:
        """Run a function on all ranks, or on some, at once; return their results.

        Raises:
            Exception: What the first rank to fail raised; the others may still be at it.
            TimeoutError: A rank has not ended in time.
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
                errors = [call.overdue(self.timeout_secs) for call in pending]  # shows all ranks
                raise errors[0]
            self._wait_for_any(pending, left)

    def _wait_for_any(self, calls: Sequence[Call[Any]], timeout_secs: float) -> None:
        """Wait until one of these calls may have ended, or for a shorter time."""
        time.sleep(min(_POLL_SECS, timeout_secs))
