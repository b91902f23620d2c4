"""The contract: what a backend must be, and what every barrier does the same way."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, NoReturn, TypeVar

from barrier_core.capability import Capability
from barrier_core.errors import (
    BarrierError,
    BarrierFailedError,
    BarrierPluginError,
    BarrierUsageError,
    as_text,
    attempt,
    describe_exception,
    failure,
    is_normal_end,
)
from barrier_core.hooks import notify, plugin_manager
from barrier_core.launcher import RankInfo, generation_from_environment
from barrier_core.options import (
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    check_limit,
    check_name,
    check_seconds,
    check_whole,
)
from barrier_core.shown import shown
from barrier_core.turn import Turn
from barrier_core.verdict import describe_round

_B = TypeVar("_B", bound="Barrier")

CONTRACT_VERSION = 2
"""Of what this module asks of a backend; raised when a backend for the one before cannot work."""

_TURN_POLL_SECS = 0.002


class Barrier(abc.ABC):
    """The point in a job that no rank may pass before every rank has reached it.

    A backend sets ``barrier_type`` and ``capabilities``, calls ``super().__init__`` and writes
    ``_wait``. The methods `_abort`, `_report_progress` and `_close` are its to override where it
    declares that it can. A core of another version than its ``contract_version`` refuses it.

    Args:
        global_rank: This process's rank, from 0.
        global_world_size: Number of ranks that must arrive.
        timeout_secs: Hard limit, in seconds, on one wait; None or infinity: no limit.
        warn_after_secs: Soft limit, in seconds, after which observers hear who is missing.

    Raises:
        BarrierConfigError: An argument is out of range.
    """

    barrier_type: ClassVar[str] = ""
    capabilities: ClassVar[Capability] = Capability.NONE
    ranks_are_threads: ClassVar[bool] = False
    """Whether all ranks are threads of one process; ranks that a launcher starts are refused."""
    # Without a value, as a class that inherited this core's version would always match.
    contract_version: ClassVar[int]

    def __init__(
        self,
        global_rank: int,
        global_world_size: int,
        timeout_secs: float | None = DEFAULT_TIMEOUT_SECS,
        warn_after_secs: float | None = DEFAULT_WARN_AFTER_SECS,
    ) -> None:
        self.rank_info = RankInfo(global_rank, global_world_size)
        self.barrier_prefix = ""
        """Name of this barrier among the job's barriers; empty where the backend has no names."""
        self.generation = generation_from_environment()
        """Changes when the whole job restarts."""
        self.timeout_secs = check_limit("timeout_secs", timeout_secs)
        """Infinite where there is no limit."""
        self.warn_after_secs = (
            None if warn_after_secs is None else check_seconds("warn_after_secs", warn_after_secs)
        )
        self.round = 0
        """Number of the last round that has ended; the first is 1."""
        self.closed = False
        self.failed: BarrierFailedError | None = None
        """Set once a round has failed: the barrier is broken from then on."""
        self._turn = Turn()
        self._turn_thread: int | None = None
        """The thread that has the turn."""
        self._mailbox: list[Any] = []
        """Reasons to end a round, for whoever has the turn; see `_settle_mailbox`."""
        self._settlers: set[int] = set()
        """Threads that take the turn for the mailbox only, which does not last."""
        self._checked_tag: object = ""
        """The last tag, most often the next one, too."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:  # copy and deepcopy come by here, too
        raise BarrierUsageError(
            f"a {self.barrier_type} barrier cannot be copied or pickled, as a copy would close its "
            "connections; make another one from its BarrierConfig, with a prefix of its own"
        )

    def execute_barrier(self, timeout_secs: float | None = None, tag: str = "") -> None:
        """Arrive, and return when every rank has arrived.

        Args:
            timeout_secs: Hard limit in seconds for this call; the barrier's own if not given, and
                ``math.inf`` for no limit.
            tag: What this round is for. It names the round in messages; a backend that declares
                ``TAGS`` also refuses to let ranks with different tags pass each other.

        Raises:
            BarrierTimeoutError: The hard limit of some rank passed first.
            BrokenBarrierError: A rank aborted, died, came with another tag or does not belong here.
            BarrierConnectionError: The store was lost.
            BarrierUsageError: The barrier is closed, another thread of this rank is in it, or this
                is a forked child.
            BarrierConfigError: ``timeout_secs`` is no positive number, or the tag over 500 bytes.
        """
        if timeout_secs is None:
            timeout_secs = self.timeout_secs
        else:
            timeout_secs = check_limit("timeout_secs", timeout_secs)
        if tag is not self._checked_tag:
            check_name("tag", tag)
            self._checked_tag = tag
        thread = get_ident()
        # All that every round goes through is written out, not called, here and down to the store:
        # with several ranks on a core, little of it is still in its cache.
        try:
            del self._turn[0]
        except IndexError:
            self._take_turn()
        try:
            self._turn_thread = thread
            if self.closed:
                self._require_open()
            if self.failed is not None:
                self._require_unbroken()
            number = self.round + 1
            observed = plugin_manager.rounds_are_observed
            started = time.monotonic() if observed else 0.0
            if observed:
                notify("barrier_enter", barrier=self, round=number, tag=tag)
                self._turn.require_own(self.barrier_type)
            try:
                self._wait(number, timeout_secs, tag)
            except BarrierError as error:
                self._turn.require_own(self.barrier_type)
                self._finish(number, tag, error, 0.0)
                raise
            if observed:
                self._finish(number, tag, None, time.monotonic() - started)
            else:
                self.round = number
        finally:
            self._turn_thread = None
            self._turn.append(None)
            if self._mailbox:
                self._settle_mailbox()

    def _finish(
        self, number: int, tag: str, error: BarrierError | None, waited_secs: float
    ) -> None:
        """End a round: move the counter, set `failed`, tell the observers.

        ``execute_barrier`` calls it for what `_wait` returns or raises. A backend calls it for a
        round that ends in another way; whoever calls it has the turn.

        Args:
            number: The round.
            tag: The tag that this rank has come with, if it has.
            error: Why it is broken; None if it has passed. Without a verdict, the barrier goes on.
            waited_secs: How long, in seconds, this rank has waited in a round that has passed.
        """
        if not self._turn.is_own:  # a child that was forked in the round
            return
        if error is not None and number <= self.round:
            return  # settled already: a signal handler has raised an error of ours
        if isinstance(error, BarrierFailedError):
            # First: should this be cut short, the next call must not go on to another round.
            self.failed = error
        self.round = number
        if error is None:
            notify("barrier_exit", barrier=self, round=number, tag=tag, waited_secs=waited_secs)
        else:
            notify("barrier_failed", barrier=self, round=number, tag=tag, error=error)

    def _settle_mailbox(self) -> None:
        """Act upon what is in the mailbox, unless somebody is in a round.

        Why nothing is lost: it is called by everybody who has put something there, and by everybody
        who gives the turn back. One of them finds both the turn and the mailbox.
        """
        thread = get_ident()
        try:
            # Before it takes the turn: whoever finds that taken knows why.
            self._settlers.add(thread)
            while self._mailbox and self.failed is None and not self.closed:
                try:
                    del self._turn[0]
                except IndexError:
                    return
                try:
                    self._turn_thread = thread
                    if self.failed is None and not self.closed:
                        self._settle_one()
                finally:
                    self._turn_thread = None
                    self._turn.append(None)
        finally:
            self._settlers.discard(thread)

    def _settle_one(self) -> None:
        """Act upon what is first in the mailbox; for a backend that puts something there."""
        del self._mailbox[0]

    @contextmanager
    def phase(self, tag: str, timeout_secs: float | None = None) -> Iterator[None]:
        """Run a block that ends in this barrier.

        Leaving normally arrives and waits. Leaving by an exception aborts the round, so that the
        other ranks raise at once with this rank's reason, and lets the exception go on.

        Raises:
            BarrierUsageError: The backend cannot abort, or this is a forked child.
            BarrierConfigError: The tag or the limit cannot be used; the block does not run then.
        """
        self._require(Capability.ABORT, "phase() must be able to abort")
        self._turn.require_own(self.barrier_type)
        check_name("tag", tag)
        check_limit("timeout_secs", timeout_secs)
        try:
            yield
        except BaseException as error:
            if not self.closed and self._turn.is_own:
                why = f"{describe_exception(error)} in phase {tag!r}"
                attempt(f"abort {self.barrier_type} on the way out of a phase", self.abort, why)
            raise
        self.execute_barrier(timeout_secs, tag)

    def abort(self, reason: str, round: int | None = None) -> bool:
        """Break the current round, or the next, on every rank. Does nothing on a broken barrier.

        Any thread may call it, also while another one waits in ``execute_barrier``.

        Args:
            reason: What the others are told, beside this rank's name; cut to 4,000 bytes.
            round: The only round to break. Nothing happens where it has ended.

        Returns:
            False where nothing has happened.

        Raises:
            BarrierUsageError: The backend cannot abort, the barrier is closed, this is a forked
                child, or the round is none that can be broken.
            BarrierConfigError: ``round`` is no whole number.
        """
        self._require(Capability.ABORT, "abort()")
        self._require_open()
        if round is not None and check_whole("round", round) > self.round + 1:
            raise BarrierUsageError(
                f"abort(round={shown(round)}) is too early: this rank comes to round "
                f"{self.round + 1} next; give that number, or none for the current or next round"
            )
        if self.failed is not None or (round is not None and round <= self.round):
            return False
        self._abort(as_text(reason), *([] if round is None else [round]))
        return round is None or self.failed is not None or self.round < round

    def report_progress(self, progress: str) -> None:
        """Say how far this rank is: what the others are told when it is the late one.

        Raises:
            BarrierUsageError: The backend cannot, the barrier is closed, or this is a forked child.
        """
        self._require(Capability.PROGRESS, "report_progress()")
        self._require_open()
        self._report_progress(as_text(progress))

    def close(self) -> None:
        """Leave for good and release everything. A second call does nothing.

        In a forked child it closes the child's copy alone, and the parent's barrier goes on.

        Raises:
            BarrierUsageError: Another thread of this rank is still in the barrier.
        """
        if not self._turn.is_own:
            self.closed = True
        if self.closed:
            return
        thread = get_ident()
        try:
            del self._turn[0]
        except IndexError:
            self._take_turn()
        try:
            self._turn_thread = thread
            if self.closed:  # by another thread, just now
                return
            self.closed = True
            self._close()
        finally:
            self._turn_thread = None
            self._turn.append(None)
        notify("barrier_closed", barrier=self)

    def __enter__(self: _B) -> _B:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None:
            self.close()
            return
        # The others hear the exception, as with `phase`. It goes on, whatever happens here.
        if Capability.ABORT in self.capabilities and not (self.closed or is_normal_end(exc)):
            why = describe_exception(exc)
            attempt(f"abort {self.barrier_type} on the way out", self.abort, why)
        attempt(f"close {self.barrier_type} on the way out", self.close)

    @abc.abstractmethod
    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        """Arrive at a round and return once all ranks have arrived.

        Args:
            number: The round; the first is 1.
            timeout_secs: Hard limit in seconds; infinite where there is none.
            tag: What this round is for.

        Raises:
            BarrierFailedError: The round did not pass, with its verdict (see `errors.failure`).
        """

    def _abort(self, reason: str, round: int | None = None) -> None:
        """Break the round, or only this one; called where ``ABORT`` is declared, by any thread."""
        raise BarrierPluginError(f"{type(self).__name__} declares ABORT but has no _abort")

    def _report_progress(self, progress: str) -> None:
        """Pass progress on; called only where ``PROGRESS`` is declared, from any thread."""
        name = type(self).__name__
        raise BarrierPluginError(f"{name} declares PROGRESS but has no _report_progress")

    def _close(self) -> None:  # noqa: B027 - a backend with nothing to release need not write it
        """Release what the backend holds; called once."""

    def _take_turn(self) -> None:
        """Take the turn once it is free, where somebody has it for the mailbox only.

        Raises:
            BarrierUsageError: Another thread is in a round, or this one; or this is a forked child.
        """
        self._turn.require_own(self.barrier_type)
        while True:
            others_settle = self._others_settle()
            try:
                del self._turn[0]
                return
            except IndexError:
                # Asked twice, as they may have come only now, or have gone already.
                if not (others_settle or self._others_settle()):
                    raise BarrierUsageError(
                        f"two threads of rank {self.rank_info.global_rank} use the same "
                        f"{self.barrier_type} barrier at once "
                        f"({describe_round(self.round + 1, '')} is under way); give each thread a "
                        "barrier with a prefix of its own"
                    ) from None
            time.sleep(_TURN_POLL_SECS)

    def _others_settle(self) -> bool:
        """Whether other threads have the turn for the mailbox only, or try to get it."""
        return bool(self._settlers) and get_ident() not in self._settlers

    def _require_open(self) -> None:
        self._turn.require_own(self.barrier_type)
        if self.closed:
            raise BarrierUsageError(
                f"this {self.barrier_type} barrier is closed; create a new one to go on"
            )

    def _require_unbroken(self) -> None:
        """Raise the verdict again where a round has failed."""
        if self.failed is not None:
            raise failure(self.failed.verdict)

    def _require(self, capability: Capability, what: str) -> None:
        if capability not in self.capabilities:
            raise BarrierUsageError(
                f"{what} is not possible: the {self.barrier_type or type(self).__name__} barrier "
                f"does not declare the capability {str(capability.name).lower()!r}; "
                "`barrier list` shows which backends do"
            )
