"""A rank's rounds: one stage, one mailbox, and one place that ends a round.

========  =================================  ===================================================
stage     event                              what follows
========  =================================  ===================================================
outside   a call                             entered
entered   about to send the arrival          arrived; noted before, as a send that is interrupted
                                             may have reached the store
arrived   release signal                     the round has passed: outside
entered,  a reason is posted, or the         the log decides: outside, or broken
arrived   deadline comes
outside   a reason is posted                 whoever has the turn, or takes it, ends the next
                                             round without arriving: broken
any       the store is lost                  broken
broken    a call                             the verdict is raised again, and told to nobody
========  =================================  ===================================================

Broken is `Barrier.failed`. `Barrier._finish` alone ends a round: it moves the counter, sets
``failed`` and tells the observers. The one exception is a round that passes, whose end is written
out for speed: two plain writes, of the counter and of the stage.

Reasons come from the rank's other threads, from signal handlers and from the watcher. Each is
appended to the mailbox, which is one atomic step. Why none is lost: who appends one tries to take
the turn afterwards, and who has the turn looks into the mailbox after giving it back
(`Barrier._settle_mailbox`). Whichever comes second sees the reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import NoReturn, cast

from barrier_core.agreement.cleanup import FinishedRounds
from barrier_core.agreement.failure_detector import FailureDetector
from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.keys import Keys, Series
from barrier_core.agreement.operations import Steps, run
from barrier_core.agreement.overdue import Overdue
from barrier_core.agreement.protocol import (
    Round,
    go_on_waiting,
    go_through,
    is_outdated,
    lost,
    next_reason,
    settle,
)
from barrier_core.agreement.reasons import Posted, Reason, StoreLost
from barrier_core.agreement.round_log import Break, break_record
from barrier_core.agreement.slow_round import SlowRound, report_silence, slow_round
from barrier_core.agreement.store import ANSWER_SECS, BRIEF_SECS, StoreClient
from barrier_core.agreement.watcher import Watcher
from barrier_core.contract import Barrier
from barrier_core.errors import BarrierError, describe_exception, failure
from barrier_core.options import LONGEST_WAIT_SECS
from barrier_core.this_process import after_fork
from barrier_core.verdict import RankStatus, Verdict

_LOOK_NOW_SECS = 1.0
"""How long, in seconds, a deadline may be overdrawn to see whether progress extends it."""
_STORE_SILENT_SECS = 0.5
"""How long the store may not have answered the watcher, in seconds, when a report is due that much:
then the waiting thread reports, since the watcher waits for the store's answer."""
_STAGGER_ABOVE = 32  # ranks
_STAGGER_SECS = 0.004  # per rank
_MAX_STAGGER_SECS = 2.0

Finish = Callable[[int, str, BarrierError | None, float], None]
"""See `Barrier._finish`."""


class Stage(Enum):
    """Where a rank stands towards its next, or current, round."""

    OUTSIDE = auto()
    ENTERED = auto()
    ARRIVED = auto()


# Looking a member up in its class costs more than all else that a stage does in a round.
_OUTSIDE, _ENTERED, _ARRIVED = Stage


class _ParentsClient:
    """What a forked child has in place of its parent's client, which would act for the parent."""

    def __getattr__(self, name: str) -> NoReturn:
        raise StoreLostError("this is a forked child, and the connection is its parent's")


class Rounds:
    """The rounds of one rank in one barrier; see the module's text.

    Only the thread that has the barrier's turn uses it, but for `lose`.

    Args:
        barrier: The barrier, whose counter and ``failed`` are the only ones.
        mailbox: The barrier's.
        finish: The barrier's `Barrier._finish`.
        client: The connection on which this rank arrives.
        keys: The barrier's keys.
        job: The job's record, as it was when the rank joined.
        watcher: Looks after slow rounds.
        failure_detector: Says of missing ranks where they run and whether they live.
        finished: Where rounds that have passed go, for their keys to be removed; None on ranks
            that do not see to that.
        store_name: What messages call the store.
        progress_extends_deadline: Count the hard limit from the late ranks' last progress.
        enter: Called once, before the first arrival, with how many seconds the store may take; see
            `membership.enter`.
        renew: Replaces the connection by a new one, for a rank that never arrives any more.
    """

    def __init__(
        self,
        barrier: Barrier,
        mailbox: list[Posted],
        finish: Finish,
        *,
        client: StoreClient,
        keys: Keys,
        job: bytes,
        watcher: Watcher,
        failure_detector: FailureDetector,
        finished: FinishedRounds | None,
        store_name: str,
        progress_extends_deadline: bool,
        enter: Callable[[float], None],
        renew: Callable[[], StoreClient],
    ) -> None:
        self.client = client
        self._barrier = barrier
        self._mailbox = mailbox
        self._finish = finish
        self._keys = keys
        self._job = job
        self._watcher = watcher
        self._failure_detector = failure_detector
        self._finished = finished
        self._store_name = store_name
        self._progress_extends_deadline = progress_extends_deadline
        self._rank = barrier.rank_info.global_rank
        self._world_size = barrier.rank_info.global_world_size
        self._is_in_child = False
        """Whether this is a forked child: see `_end_in_child`."""
        after_fork(self._end_in_child)
        self._stage = _OUTSIDE
        self._started = 0.0
        """When the current round was entered, in monotonic seconds."""
        self._enter, self._renew = enter, renew
        self._series_of = partial(keys.series, self._rank, self._world_size)
        self._series = self._series_of("")
        """What the current round's tag needs; most often the next one's, too."""
        self._slow: SlowRound | None = None
        self._limit_secs = math.inf
        """The hard limit of the slow round, in seconds."""
        self._deadline = math.inf
        """Its end, in monotonic seconds, as far as is known."""
        # Ranks that expire together would all ask the store at once. Spread out, the first decides
        # and most of the rest hear of it: O(N) work for the store, not O(N^2).
        self._stagger_secs = (
            min(self._rank * _STAGGER_SECS, _MAX_STAGGER_SECS)
            if self._world_size > _STAGGER_ABOVE
            else 0.0
        )

    def wait(self, number: int, timeout_secs: float, tag: str) -> None:
        """Be in a round. Returns once it has passed.

        Raises:
            BarrierFailedError: The round is broken; to end it is left to the caller.
        """
        self._started = time.monotonic()
        series = self._series
        if tag != series.tag:
            series = self._series = self._series_of(tag)
        self._stage = _ENTERED
        try:
            if self._mailbox:
                verdict = self._go_slowly(go_through, number, timeout_secs)
            else:
                # The first steps of `go_through`, written out: every round comes by here.
                self._stage = _ARRIVED
                client = self.client
                client.arrive(series, number)
                # Until a round is slow, nobody looks after it, and a failure can cost nothing.
                brief = timeout_secs >= BRIEF_SECS
                if client.wait_briefly() if brief else client.wait(timeout_secs):
                    verdict = None
                else:
                    verdict = self._go_slowly(go_on_waiting, number, timeout_secs)
            if verdict is None:
                self._barrier.round = number
        except StoreLostError as error:
            arrived = self._stage is _ARRIVED
            self._stage = _OUTSIDE
            raise failure(self._note_loss(number, series, error, arrived)) from error
        except BaseException as interrupt:
            if not self._is_in_child:
                self._leave_round(number, interrupt)
            raise
        self._stage = _OUTSIDE
        if verdict is not None:
            self._tell_loss(verdict)
            raise failure(verdict)
        if self._finished is not None:
            self._finished.add(number, series)

    def enter(self, number: int, timeout_secs: float, tag: str) -> None:
        """Have the store know, before the first round, that the rank will be in it.

        Raises:
            BarrierFailedError: The store was lost.
        """
        self._started = time.monotonic()
        series = self._series = self._series_of(tag)
        self._stage = _ENTERED
        slow = slow_round(self._barrier, number, series, self._started)
        try:
            with Overdue(next(iter(slow.report_after), None), partial(self._report_silence, slow)):
                self._enter(timeout_secs + ANSWER_SECS)
        except StoreLostError as error:
            self._stage = _OUTSIDE
            raise failure(self._note_loss(number, series, error, arrived=False)) from error
        except BaseException as interrupt:
            if not self._is_in_child:
                # An interrupted question ends its connection. This rank is to tell the others why.
                with suppress(StoreLostError):
                    self.client = self._renew()
                self._leave_round(number, interrupt)
            raise

    def _leave_round(self, number: int, interrupt: BaseException) -> None:
        """Break a round that this rank leaves by an exception: by Ctrl-C, or a signal handler's.

        By way of the mailbox: should this be interrupted as well, it is done again.
        """
        why = Break("abort", self._rank, describe_exception(interrupt))
        self._mailbox.append(Posted(why, number))
        self.settle_mailbox()

    def settle_mailbox(self) -> None:
        """Act upon the first reason in the mailbox: it ends the current round, or else the next."""
        number = self._barrier.round + 1
        # Why this is safe: only who has the turn removes anything, and others append at the end.
        while self._mailbox and is_outdated(self._mailbox[0], number):
            del self._mailbox[0]
        reason = next_reason(self._mailbox, number)
        if reason is None:
            self._stage = _OUTSIDE
            return
        # A round that was interrupted is still the current one. Any other is the next one.
        arrived = self._stage is _ARRIVED
        current = self._stage is not _OUTSIDE
        series = self._series if current else self._series_of("")
        round_ = self._round(number, series)
        cause = None
        self.client.answer_by = time.monotonic() + ANSWER_SECS
        try:
            verdict = run(settle(round_, reason, arrived), self)
            self._tell_loss(verdict)
        except StoreLostError as error:
            cause, verdict = error, self._note_loss(number, series, error, arrived)
        finally:
            self.client.answer_by = math.inf
        self._stage = _OUTSIDE
        error_of_round = None if verdict is None else failure(verdict)
        if error_of_round is not None:
            error_of_round.__cause__ = cause
        elif self._finished is not None:
            self._finished.add(number, series)
        waited_secs = time.monotonic() - self._started if current else 0.0
        self._finish(number, series.tag, error_of_round, waited_secs)

    def _end_in_child(self) -> None:
        """In a forked child: have a round end that this thread was in, at its next step."""
        self._is_in_child = True
        self.client = cast("StoreClient", _ParentsClient())

    def lose(self, error: StoreLostError) -> Verdict:
        """Note that the store was lost outside a round, which ends the next; return its verdict."""
        self._mailbox.append(Posted(StoreLost(str(error))))
        return self._note_loss(self._barrier.round + 1, self._series_of(""), error, arrived=False)

    # What the protocol's operations need: see `protocol.Performer`.

    def arrive(self, series: Series, number: int) -> None:
        """Append the arrival, and count it in."""
        self._stage = _ARRIVED
        self.client.arrive(series, number)

    def await_release(self) -> bool:
        """Wait for the release signal, for a reason in the mailbox, or for the deadline."""
        # A brief wait may have used up the wake that came with it.
        if self._slow is not None and next_reason(self._mailbox, self._slow.number) is not None:
            return False
        end = self._deadline
        if self._slow is not None:
            silent_secs = self._watcher.silent_secs()
            if silent_secs >= _STORE_SILENT_SECS:
                self._slow.report_due(self._report_silence, _STORE_SILENT_SECS)
            for after in self._slow.report_after:
                next_report = self._started + after + _STORE_SILENT_SECS
                end = min(end, max(next_report, time.monotonic() + _STORE_SILENT_SECS))
        left = max(end - time.monotonic(), 0.0)
        return self.client.wait(min(left, LONGEST_WAIT_SECS))

    def next_reason(self, number: int) -> Reason | None:
        """Return the first reason in the mailbox, or that the time is up; None if it goes on."""
        reason = next_reason(self._mailbox, number)
        if reason is None and time.monotonic() >= self._deadline:
            self._deadline = max(self._deadline, self._extended_deadline())
            reason = next_reason(self._mailbox, number)
            if reason is None and time.monotonic() >= self._deadline:
                reason = Break("timeout", self._rank, f"after {self._limit_secs:g} s")
        if reason is not None:
            # All that remains to be asked must be answered within the time of one answer.
            started = min(time.monotonic(), self._deadline - self._stagger_secs)
            self.client.answer_by = started + ANSWER_SECS
        return reason

    def describe(self, ranks: Sequence[int]) -> tuple[RankStatus, ...]:
        """Say of missing ranks where they run and whether they live."""
        return self._failure_detector.examine(self.client, ranks)

    def _note_loss(
        self, number: int, series: Series, error: StoreLostError, arrived: bool
    ) -> Verdict:
        """Return the verdict of a rank that has lost the store, and have the others told."""
        host = self._failure_detector.store_host(None)
        hosted = "" if host is None else f"; the store is hosted by {host}"
        verdict = lost(self._round(number, series), f"{error}{hosted}")
        if arrived and not self._is_in_child:
            # Why this is safe: these are the steps of `protocol.give_up`, in its order. If the
            # arrival is handled later, they are handled after it.
            self.client.abandon(series, number, break_record(self._alarm(verdict)))
        self._tell_loss(verdict)
        return verdict

    def _tell_loss(self, verdict: Verdict | None) -> None:
        """Have the others told where this rank has lost the store: its verdict is its own alone."""
        if verdict is not None and verdict.kind == "store":
            self._watcher.tell(self._alarm(verdict))

    def _alarm(self, verdict: Verdict) -> Break:
        return Break("abort", self._rank, f"it has given up: {verdict.reason}")

    def _round(self, number: int, series: Series) -> Round:
        return Round(number, series, self._keys, self._rank, self._job, self._store_name)

    def _go_slowly(
        self, steps: Callable[[Round], Steps[Verdict | None]], number: int, timeout_secs: float
    ) -> Verdict | None:
        """Take the steps of a round one by one, looked after by the watcher."""
        series = self._series
        slow = self._slow = slow_round(self._barrier, number, series, self._started)
        self._limit_secs = timeout_secs
        self._deadline = self._started + timeout_secs + self._stagger_secs
        self._watcher.attend(slow)
        try:
            return run(steps(self._round(number, series)), self)
        finally:
            self.client.answer_by = math.inf
            self._watcher.attend(None)

    def _extended_deadline(self) -> float:
        """Return the deadline that the late ranks' progress allows, in monotonic seconds."""
        slow = self._slow
        if slow is None or not self._progress_extends_deadline:
            return 0.0
        self._watcher.look_now(slow, _LOOK_NOW_SECS)  # what was seen before may be outdated
        if not slow.missing:
            return 0.0
        ages = [status.progress_age_secs for status in slow.missing]
        if any(age is None for age in ages):
            return 0.0  # a late rank that reports nothing extends nothing
        oldest = max(age for age in ages if age is not None)
        return slow.looked_at - oldest + self._limit_secs

    def _report_silence(self, slow: SlowRound, waited_secs: float) -> None:
        host = self._failure_detector.store_host(self._watcher.silent_secs())
        report_silence(self._barrier, host, slow, waited_secs)
