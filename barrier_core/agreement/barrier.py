"""The barrier that any key-value store becomes by way of the round protocol."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import ExitStack, suppress
from typing import ClassVar

import msgspec

from barrier_core.agreement.cleanup import COLLECT_EVERY, retire, retire_older
from barrier_core.agreement.keys import Keys, Series
from barrier_core.agreement.leaving import sign_off
from barrier_core.agreement.liveness import LivenessPort
from barrier_core.agreement.membership import (
    FailureDetector,
    Member,
    join,
    wait_for_host,
)
from barrier_core.agreement.open_barriers import Slot
from barrier_core.agreement.protocol import give_up, run
from barrier_core.agreement.round_log import Break, Log, decode_verdict
from barrier_core.agreement.store import BRIEF_SECS, Connect, StoreClient, StoreLostError
from barrier_core.agreement.watcher import Finding, Passed, SlowRound, Watcher
from barrier_core.contract import Barrier, Capability
from barrier_core.errors import (
    BarrierFailedError,
    BarrierSetupError,
    BarrierUsageError,
    describe_exception,
    failure,
)
from barrier_core.hooks import notify, plugin_manager
from barrier_core.options import DEFAULT_LINGER_SECS, check_name, check_seconds
from barrier_core.verdict import Verdict, format_ranks

_LOOK_NOW_SECS = 1.0
"""How long, in seconds, a deadline may be overdrawn to see whether progress extends it."""
_ABORT_POLL_SECS = 0.02
_ABORT_PATIENCE_SECS = 0.2
_STAGGER_ABOVE = 32  # ranks
_STAGGER_SECS = 0.004  # per rank
_MAX_STAGGER_SECS = 2.0


class StoreBarrier(Barrier):
    """A barrier over a key-value store, with every guarantee that the engine gives.

    A backend derives from it, sets ``barrier_type`` and passes ``connect``.

    Args:
        global_rank: This process's rank, from 0.
        global_world_size: Number of ranks that must arrive.
        connect: Opens a line to the store; called twice, for the caller and for the watcher.
        store_name: What messages call the store, such as ``TCP store at 10.0.0.1:29511``.
        barrier_prefix: Name of this barrier in the store.
        generation: Changes when the whole job restarts; from the launcher if None.
        timeout_secs: Hard limit in seconds on one wait.
        warn_after_secs: Soft limit in seconds after which observers hear who is missing.
        heartbeat_secs: Seconds between signs of life; 0 turns them off.
        progress_extends_deadline: Count the hard limit from the late ranks' last progress.
        hosts_store: Whether the store dies with this process, which then leaves last.
        linger_secs: How long, in seconds, a hosting rank waits for the others in ``close``.

    Raises:
        BarrierConfigError: An argument is out of range.
        BarrierSetupError: The store cannot be reached.
        RankConflictError: Another process has this rank, or the ranks disagree about the job.
    """

    capabilities: ClassVar[Capability] = (
        Capability.TIMEOUT
        | Capability.NAMES
        | Capability.ONE_VERDICT
        | Capability.ABORT
        | Capability.TAGS
        | Capability.PROGRESS
        | Capability.LIVENESS
        | Capability.GENERATIONS
        | Capability.BOUNDED_STATE
    )

    def __init__(
        self,
        global_rank: int,
        global_world_size: int,
        *,
        connect: Connect,
        store_name: str,
        barrier_prefix: str,
        generation: str | None,
        timeout_secs: float,
        warn_after_secs: float | None,
        heartbeat_secs: float,
        progress_extends_deadline: bool,
        hosts_store: bool = False,
        linger_secs: float = DEFAULT_LINGER_SECS,
    ) -> None:
        super().__init__(global_rank, global_world_size, timeout_secs, warn_after_secs)
        check_name("barrier_prefix", barrier_prefix)
        self.barrier_prefix = barrier_prefix
        self._rank = global_rank
        self._world_size = global_world_size
        self._store_name = store_name
        self._progress_extends_deadline = progress_extends_deadline
        self._hosts_store = hosts_store
        self._linger_secs = linger_secs
        if heartbeat_secs:
            check_seconds("heartbeat_secs", heartbeat_secs)
        # Ranks that expire together would all ask the store at once. Spread out, the first decides
        # and most of the rest hear of it: O(N) work for the store, not O(N^2).
        self._stagger_secs = (
            min(global_rank * _STAGGER_SECS, _MAX_STAGGER_SECS)
            if global_world_size > _STAGGER_ABOVE
            else 0.0
        )
        self._abort_reason: str | None = None
        self._heeds_abort = False
        """Whether the thread that has the turn will see `_abort_reason` by itself."""
        self._passed = 0
        """Number of the last round that has passed."""
        self._finished: list[tuple[int, Series]] = []
        """Rounds that have passed and whose keys are to be removed; kept by rank 0."""
        if generation is None:
            generation = self.generation
        check_name("generation", generation)
        self._connect = connect
        self.barrier_prefix, self.generation = barrier_prefix, generation
        self._seat = Slot.take(self, (store_name, barrier_prefix, generation, global_rank))
        self._keys = Keys(barrier_prefix, f"{generation}.{self._seat.number}")
        with ExitStack() as undo:
            undo.callback(self._seat.give_back)
            try:
                self._line = self._open(connect)
                undo.callback(self._line.close)
                self._beacon = _light_beacon(self._line) if heartbeat_secs else None
                if self._beacon is not None:
                    undo.callback(self._beacon.close)
                me = Member.myself(self.rank_info, self._beacon)
                join(self._line, self._keys, me, global_world_size)
                if global_rank == 0:
                    retire_older(self._line, self._keys)
            except StoreLostError as error:
                raise BarrierSetupError(f"cannot join through the {store_name}: {error}") from error
            undo.pop_all()
        self._examiner = FailureDetector(self._keys, me, heartbeat_secs)
        self._watcher = Watcher(
            connect,
            self._keys,
            global_rank,
            global_world_size,
            heartbeat_secs,
            self._examiner,
            self._beacon,
        )
        self._series = self._keys.series(global_rank, global_world_size, "")
        """What the last round's tag needs, most often the next one's, too."""
        self._owner_pid = os.getpid()

    def gather(self, value: str, timeout_secs: float | None = None, tag: str = "") -> list[str]:
        """Go through the barrier once; on rank 0, return what every rank has brought.

        For something short and rare, such as what a rank has measured: rank 0 gets all of it at
        once.

        Args:
            value: What this rank brings.
            timeout_secs: As for `execute_barrier`.
            tag: As for `execute_barrier`.

        Returns:
            The values in the order of ranks on rank 0, an empty list on the others.

        Raises:
            BarrierError: As `execute_barrier`; a `BarrierUsageError` on rank 0 also where other
                ranks have called that instead.
        """
        self._require_open()
        key = self._keys.gathered(self._passed + 1)
        try:
            line = self._connect()  # another thread may be in a round, on the barrier's own
            try:
                line.append(key, msgspec.json.encode((self._rank, value)) + b"\n")
                line.read([self._keys.shape])  # once it answers, the store has the value
                self.execute_barrier(timeout_secs, tag)
                if self._rank != 0:
                    return []
                # Why this is safe: no rank comes to the next round but one, which has this key
                # again, before rank 0 has come to the next.
                brought = (line.read([key])[0] or b"").splitlines()
                line.remove([key])
            finally:
                line.close()
        except StoreLostError as error:
            raise failure(self._lost(tag, error)) from error
        by_rank = dict(msgspec.json.decode(each, type=tuple[int, str]) for each in brought)
        without = set(range(self._world_size)) - by_rank.keys()
        if without:
            raise BarrierUsageError(
                f"rank 0 gathers in round {self.round}, but ranks {format_ranks(without)} brought "
                "nothing: all ranks must call gather()"
            )
        return [by_rank[rank] for rank in range(self._world_size)]

    def _wait(self, timeout_secs: float, tag: str) -> None:
        # A call that was interrupted before it arrived has used up no round. A rank that skipped
        # one could break a later one, and the others would take this one as passed.
        self.round = self._passed + 1
        started = time.monotonic()
        series = self._series
        if tag != series.tag:
            series = self._series = self._keys.series(self._rank, self._world_size, tag)
        arrived = False
        self._heeds_abort = True
        try:
            if self._watcher.notice is not None or self._abort_reason is not None:
                notice = self._watcher.notice or self._own_abort()
                assert notice is not None  # neither is ever taken back
                self._settle(series, notice, arrived)
            arrived = True  # before it is true: an interrupted arrival may have reached the store
            line = self._line
            line.arrive(series, self.round)
            # Until a round is slow, nobody looks after it, and a failure can cost nothing.
            brief = timeout_secs >= BRIEF_SECS
            if not (line.wait_briefly() if brief else line.wait(timeout_secs)):
                self._wait_slowly(series, started, timeout_secs)
            self._passed = self.round
        except BarrierFailedError:
            raise
        except StoreLostError as error:
            raise failure(self._lost(tag, error)) from error
        except BaseException as interrupt:
            # Ctrl-C, or whatever a signal handler raises: this rank leaves, so the round is broken.
            why = Break("abort", self._rank, describe_exception(interrupt))
            verdict = self._give_up(self.round, series, why, arrived)
            if verdict is None:
                self._passed = self.round
                if self._rank == 0:
                    self._collect(series)
            else:
                self.failed = failure(verdict)
            raise
        if self._rank == 0:
            self._collect(series)
        self._heeds_abort = False
        if self._abort_reason is not None and self.failed is None:
            # From this thread (a signal handler), and too late for this round.
            self._break_next(self._abort_reason)

    def _wait_slowly(self, series: Series, started: float, timeout_secs: float) -> None:
        """Go on waiting, looked after by the watcher. Returns once the round has passed."""
        listened = bool(plugin_manager.hook.barrier_waiting.get_hookimpls())
        slow = SlowRound(
            number=self.round,
            tag=series.tag,
            log=series.keys(self.round).log,
            started=started,
            wake=self._line.wake,
            report=self._report,
            report_after=(self.warn_after_secs if listened else None) or math.inf,
        )
        deadline = started + timeout_secs + self._stagger_secs
        self._watcher.attend(slow)
        try:
            while True:
                finding = slow.finding or self._own_abort()
                if finding is None and time.monotonic() >= deadline:
                    deadline = max(deadline, self._extended_deadline(slow, timeout_secs))
                    finding = slow.finding
                    if finding is None and time.monotonic() >= deadline:
                        waited = f"waited for {time.monotonic() - started:.1f} s"
                        finding = Break("timeout", self._rank, waited)
                if finding is not None:
                    return self._settle(series, finding, arrived=True)
                if self._line.wait(max(deadline - time.monotonic(), 0.0)):
                    return None
        finally:
            self._watcher.attend(None)

    def _extended_deadline(self, slow: SlowRound, timeout_secs: float) -> float:
        """Return the deadline that the late ranks' progress allows, in monotonic seconds."""
        if not self._progress_extends_deadline:
            return 0.0
        self._watcher.look_now(slow, _LOOK_NOW_SECS)  # what was seen before may be outdated
        if not slow.missing:
            return 0.0
        ages = [status.progress_age_secs for status in slow.missing]
        if any(age is None for age in ages):
            return 0.0  # a late rank that reports nothing extends nothing
        return slow.looked_at - max(age for age in ages if age is not None) + timeout_secs

    def _own_abort(self) -> Break | None:
        """Return the break that this rank's own `abort` asks for, if it has been called."""
        reason = self._abort_reason
        return None if reason is None else Break("abort", self._rank, reason)

    def _settle(self, series: Series, why: Finding, arrived: bool) -> None:
        """End a wait, for a reason. Returns if the round has passed; raises its verdict if not."""
        if isinstance(why, Passed) or (isinstance(why, Verdict) and why.round > self.round):
            # Whoever is in a later round has passed this one, and so has everybody.
            self._line.withdraw()
        elif isinstance(why, Verdict):
            raise failure(why)
        else:
            verdict = self._give_up(self.round, series, why, arrived)
            if verdict is not None:
                raise failure(verdict)

    def _give_up(
        self, round_number: int, series: Series, why: Break, arrived: bool
    ) -> Verdict | None:
        """Break a round. Returns the verdict that stands for all ranks; None if it had passed."""
        try:
            keys = series.keys(round_number)
            log = run(give_up(keys, why, self._world_size, arrived), self._line)
            if log is None:
                # A rank that was late to ring the removed bell still waits for it: tell it.
                self._line.write(self._keys.passed, b"%d" % round_number)
                return None
            verdict = self._compose(log, round_number, series.tag)
            # The first to write it down writes it for all: who is alive and what a rank last did
            # is seen differently from different places.
            standing = self._line.create(self._keys.verdict, msgspec.json.encode(verdict))
            return decode_verdict(standing)
        except StoreLostError as error:
            return self._lost(series.tag, error)

    def _compose(self, log: Log, round_number: int, tag: str) -> Verdict:
        assert log.broken_by is not None  # the caller's own record is there, if no other
        arrived = {arrival.rank for arrival in log.arrivals}
        missing = set(range(self._world_size)) - arrived
        tags = {tag: format_ranks(ranks) for tag, ranks in sorted(log.tags.items())}
        return Verdict(
            kind=log.broken_by.kind,
            round=round_number,
            tag=tag,
            rank=log.broken_by.rank,
            reason=log.broken_by.reason,
            world_size=self._world_size,
            missing=self._examiner.examine(self._line, missing) if missing else (),
            tags=tags if len(tags) > 1 else None,
        )

    def _lost(self, tag: str, error: StoreLostError) -> Verdict:
        return Verdict(
            kind="store",
            round=self.round,
            tag=tag,
            reason=f"the {self._store_name} was lost: {error}. Whether other ranks have passed is "
            "not known; restart the job from its last checkpoint",
            world_size=self._world_size,
        )

    def _report(self, slow: SlowRound, waited_secs: float) -> None:
        """Tell the observers who is missing. Runs on the watcher's thread."""
        notify(
            "barrier_waiting",
            barrier=self,
            round=slow.number,
            tag=slow.tag,
            waited_secs=waited_secs,
            missing=slow.missing,
            reporter=slow.arrived[:1] == [self._rank],
        )

    def _collect(self, series: Series) -> None:
        """Have finished rounds removed; runs on rank 0 after each round that has passed."""
        if len(self._finished) >= COLLECT_EVERY:
            # Not the round just passed: others may still be asking its log.
            self._watcher.collect(self._finished)
            self._finished = []
        self._finished.append((self.round, series))

    def _abort(self, reason: str) -> None:
        self._abort_reason = reason
        patience_ends = time.monotonic() + _ABORT_PATIENCE_SECS
        while self.failed is None and not self.closed:
            if self._turn_thread == threading.get_ident():
                # An observer or a signal handler, in a round that goes on after it.
                if self._heeds_abort:
                    self._line.wake()
                else:
                    self._break_next(reason)
                return
            try:
                del self._turn[0]
            except IndexError:
                # A thread is in a round: it breaks it itself, on the line on which it has arrived.
                self._line.wake()
                if self._turn_thread is None and time.monotonic() >= patience_ends:
                    # A signal handler on a thread that is about to enter a round, or has just left
                    # one: it goes on only when this returns, and then sees the reason.
                    return
                time.sleep(_ABORT_POLL_SECS)
                continue
            # Nobody is in a round.
            try:
                self._turn_thread = threading.get_ident()
                if self.failed is None and not self.closed:
                    self._break_next(reason)
            finally:
                self._turn_thread = None
                self._turn.append(None)
            return

    def _break_next(self, reason: str) -> None:
        """Break the next round, which this rank will then never enter."""
        self._heeds_abort = True  # a signal handler must not use the line meanwhile
        number = self._passed + 1
        series = self._keys.series(self._rank, self._world_size, "")
        why = Break("abort", self._rank, reason)
        verdict = self._give_up(number, series, why, arrived=False)
        assert verdict is not None  # a round without this rank cannot pass
        self.failed = failure(verdict)

    def _report_progress(self, progress: str) -> None:
        self._watcher.report_progress(progress)

    def _open(self, connect: Connect) -> StoreClient:
        """Open the caller's line, to join on; a backend whose rank 0 hosts the store overrides it.

        Raises:
            StoreLostError: The store cannot be reached.
        """
        return connect()

    def _wait_for_host(self, line: StoreClient, deadline: float) -> None:
        """Return once rank 0 has come to this barrier; see `wait_for_host`."""
        keys = wait_for_host(line, self._keys, deadline)
        if keys is not self._keys:
            self._keys = keys
            self._seat.move_to(keys.number)

    def _close(self) -> None:
        self._watcher.stop(timeout_secs=1.0)
        # A forked child holds copies of the sockets, but signing off is the parent's; and a store
        # that is lost would only hold up the exit.
        lost = self.failed is not None and self.failed.verdict.kind == "store"
        if os.getpid() == self._owner_pid and not lost:
            with suppress(StoreLostError):
                all_have_left = sign_off(
                    self._line,
                    self._keys,
                    self._rank,
                    self._world_size,
                    self._examiner,
                    linger_secs=self._linger_secs if self._hosts_store else 0.0,
                    failed=self.failed is not None,
                )
                if all_have_left and not self._hosts_store:
                    retire(self._line, self._keys)
        self._line.close()
        if self._beacon is not None:
            self._beacon.close()
        self._seat.give_back(used=True)


def _light_beacon(line: StoreClient) -> LivenessPort | None:
    """Open a beacon at this host's address; None where it has none that others can reach."""
    address = line.address()
    try:
        return None if address is None else LivenessPort(address)
    except OSError:
        return None  # silence then stays silence: nobody can tell this rank's death by knocking
