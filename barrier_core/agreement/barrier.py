"""The barrier that any key-value store becomes: the engine's parts, put together."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import get_ident
from typing import ClassVar

from barrier_core.agreement.cleanup import FinishedRounds, remove_finished
from barrier_core.agreement.failure_detector import FailureDetector
from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.gathering import gather
from barrier_core.agreement.joining import join_barrier
from barrier_core.agreement.leaving import leave
from barrier_core.agreement.membership import enter
from barrier_core.agreement.reasons import Posted
from barrier_core.agreement.round import Rounds
from barrier_core.agreement.round_log import Break
from barrier_core.agreement.sealing import job_secret
from barrier_core.agreement.setting_up import SettingUp
from barrier_core.agreement.store import ANSWER_SECS, StoreAccess, StoreClient
from barrier_core.agreement.watcher import Watcher
from barrier_core.capability import Capability
from barrier_core.contract import Barrier
from barrier_core.errors import BarrierSetupError, failure
from barrier_core.exhaustion import exhausted
from barrier_core.launcher import job_id_from_environment
from barrier_core.options import (
    DEFAULT_LINGER_SECS,
    LONGEST_GATHERED,
    check_name,
    check_seconds,
    check_switch,
    check_text,
)
from barrier_core.secret import Secret

_ABORT_PATIENCE_SECS = 1.0
"""How long `abort` waits for the thread that is in a round to end it."""
_ABORT_POLL_SECS = 0.005
_STOP_SECS = 1.0
_SLOW_ENTRY_SECS = 0.5
"""From so many seconds on, the time that the first question takes is taken off the limit."""
_SHORTEST_WAIT_SECS = 0.01


class StoreBarrier(Barrier):
    """A barrier over a key-value store, with every guarantee that the engine gives.

    A backend derives from it, sets ``barrier_type`` and passes ``store``.

    Args:
        global_rank: This process's rank, from 0.
        global_world_size: Number of ranks that must arrive.
        store: How to get at the store. It is closed when the barrier is, or cannot be made.
        barrier_prefix: Name of this barrier in the store.
        generation: Changes when the whole job restarts; from the launcher if None.
        timeout_secs: Hard limit in seconds on one wait; None or infinity: no limit.
        warn_after_secs: Soft limit in seconds after which observers hear who is missing, and after
            which the log says what the set-up waits for.
        heartbeat_secs: Seconds between heartbeats; 0 turns them off.
        progress_extends_deadline: Count the hard limit from the late ranks' last progress.
        linger_secs: How long, in seconds, a rank that hosts the store waits for the others in
            ``close``.
        job_id: Tells this job from others that use the store; from the launcher if None.
        secret: Known to this job's ranks only, at least 16 characters; ``BARRIER_SECRET`` if None.
            A text, ``file:PATH`` or ``env:NAME``. Who does not know it cannot name a key of the
            job.
        verify: Authenticate every record with the secret, and read the log of every round.

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
        store: StoreAccess,
        barrier_prefix: str,
        generation: str | None,
        timeout_secs: float | None,
        warn_after_secs: float | None,
        heartbeat_secs: float,
        progress_extends_deadline: bool,
        linger_secs: float = DEFAULT_LINGER_SECS,
        job_id: str | None = None,
        secret: Secret | str | None = None,
        verify: bool = False,
    ) -> None:
        super().__init__(global_rank, global_world_size, timeout_secs, warn_after_secs)
        check_name("barrier_prefix", barrier_prefix)
        heartbeat_secs = check_seconds("heartbeat_secs", heartbeat_secs, zero=True)
        check_switch("progress_extends_deadline", progress_extends_deadline)
        if generation is None:
            generation = self.generation
        check_name("generation", generation)
        if job_id is None:
            job_id = job_id_from_environment() or ""
        check_name("job_id", job_id)
        secret = job_secret(secret, verify)
        self.barrier_prefix, self.generation, self.job_id = barrier_prefix, generation, job_id
        self._store = store
        self._linger_secs = check_seconds("linger_secs", linger_secs, zero=True)
        waits_for = f"no answer from the {store.name}"
        setting_up = SettingUp(
            global_rank, barrier_prefix, self.warn_after_secs, store.set_up_secs, waits_for
        )
        with setting_up:
            joined = join_barrier(
                store,
                self.rank_info,
                job_id,
                barrier_prefix,
                generation,
                setting_up,
                heartbeats=bool(heartbeat_secs),
                secret=secret,
                verify=verify,
            )
            self._slot, self._keys, self._client = joined.slot, joined.keys, joined.client
            self._connect, self._liveness_port = joined.connect, joined.liveness_port
            try:
                self._failure_detector = FailureDetector(
                    self._keys,
                    joined.me,
                    heartbeat_secs,
                    global_world_size,
                    self._liveness_port,
                    joined.host,
                )
                self._watcher = Watcher(
                    store,
                    self._connect,
                    self._keys,
                    joined.job,
                    global_rank,
                    global_world_size,
                    heartbeat_secs,
                    self._failure_detector,
                    self._liveness_port,
                    self._post,
                    connect_by=joined.answer_by,
                )
            except BaseException as error:
                self._release()
                why = exhausted(error)
                if why is None:
                    raise
                raise BarrierSetupError(f"rank {global_rank} cannot join: {why}") from error
        self._rounds = Rounds(
            self,
            self._mailbox,
            self._finish,
            client=self._client,
            keys=self._keys,
            job=joined.job,
            watcher=self._watcher,
            failure_detector=self._failure_detector,
            finished=FinishedRounds(self._watcher.remove) if global_rank == 0 else None,
            store_name=store.name,
            progress_extends_deadline=progress_extends_deadline,
            enter=lambda secs: enter(self._client, self._keys, joined.me, secs),
            renew=self._renew_client,
        )
        self._has_entered = False
        """Whether the store knows that this rank has been in a round."""
        self._slot.hold(self)

    def gather(self, value: str, timeout_secs: float | None = None, tag: str = "") -> list[str]:
        """Go through the barrier once; on rank 0, return what every rank has brought.

        For something short and rare, such as what a rank has measured: rank 0 gets all of it at
        once.

        Args:
            value: What this rank brings, of at most 1 MiB.
            timeout_secs: As for `execute_barrier`.
            tag: As for `execute_barrier`.

        Returns:
            The values in the order of ranks on rank 0, an empty list on the others.

        Raises:
            BarrierConfigError: The value is no text that can be sent.
            BarrierError: As `execute_barrier`; a `BarrierUsageError` on rank 0 also where other
                ranks have called that instead.
        """
        self._require_open()
        self._require_unbroken()
        check_text("value", value, LONGEST_GATHERED)
        try:
            return gather(
                self._connect(),  # another thread may be in a round, on the barrier's own
                self._keys,
                self.round + 1,
                self.rank_info.global_rank,
                self.rank_info.global_world_size,
                value,
                lambda: self.execute_barrier(timeout_secs, tag),
            )
        except StoreLostError as error:
            # Before the round or after it: the next round is the one that cannot be.
            verdict = self._rounds.lose(error)
            self._settle_mailbox()
            # Where another thread is in a round, it will find the loss in the mailbox.
            self._require_unbroken()
            raise failure(verdict) from error

    def _renew_client(self) -> StoreClient:
        """Connect anew, for what is left to be told."""
        old, self._client = self._client, self._connect()
        self._client.incarnation = old.incarnation
        old.close()
        return self._client

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        if not self._has_entered:
            started = time.monotonic()
            self._rounds.enter(number, timeout_secs, tag)
            self._has_entered = True
            took = time.monotonic() - started
            if took >= _SLOW_ENTRY_SECS:
                timeout_secs = max(timeout_secs - took, _SHORTEST_WAIT_SECS)
        self._rounds.wait(number, timeout_secs, tag)

    def _post(self, posted: Posted) -> None:
        """Give this rank a reason to end a round. Any thread may call it."""
        self._mailbox.append(posted)
        self._client.wake()

    def _settle_one(self) -> None:
        self._rounds.settle_mailbox()

    def _abort(self, reason: str, round: int | None = None) -> None:
        self._post(Posted(Break("abort", self.rank_info.global_rank, reason), round))
        self._settle_mailbox()
        # Where another thread is in a round, it ends it, on the connection on which it has arrived.
        # One that this handler or observer has interrupted goes on only when this returns.
        patience_ends = time.monotonic() + _ABORT_PATIENCE_SECS
        while (
            self.failed is None
            and not self.closed
            and (round is None or self.round < round)
            and self._turn_thread != get_ident()
            and time.monotonic() < patience_ends
        ):
            time.sleep(_ABORT_POLL_SECS)
            self._settle_mailbox()

    def _report_progress(self, progress: str) -> None:
        self._watcher.report_progress(progress)

    def _close(self) -> None:
        self._watcher.stop(_STOP_SECS)
        linger_secs = self._linger_secs if self._store.hosts_store else 0.0
        # A store that is lost would only hold up the exit.
        if self.failed is None or self.failed.verdict.kind != "store":
            self._client.answer_by = time.monotonic() + linger_secs + ANSWER_SECS
            with suppress(StoreLostError):
                all_have_left = leave(
                    self._client,
                    self._keys,
                    self.rank_info.global_rank,
                    self.rank_info.global_world_size,
                    self._failure_detector,
                    linger_secs=linger_secs,
                    failed=self.failed is not None,
                )
                if all_have_left:
                    remove_finished(self._client, self._keys)
        self._client.close()
        self._watcher.join(ANSWER_SECS)
        if self._liveness_port is not None:
            self._liveness_port.say_farewell()
        self._release()

    def _release(self) -> None:
        self._client.close()
        if self._liveness_port is not None:
            self._liveness_port.close()
        self._slot.give_back()
        self._store.close()
