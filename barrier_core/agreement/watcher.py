"""The second thread of a rank: heartbeats, and looking after a round that has become slow.

It has a connection of its own, because the caller's may be blocked for as long as the round lasts.
It only ever finds things out and posts them; the caller's thread alone decides, on its own
connection, in the order that the protocol needs.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from barrier_core.agreement.cleanup import Batch, remove_rounds
from barrier_core.agreement.failure_detector import FailureDetector, Heartbeat
from barrier_core.agreement.foreign import ForeignRecordError, StoreLostError, read_number
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.liveness import LivenessPort
from barrier_core.agreement.protocol import evidence_in_log, evidence_in_store
from barrier_core.agreement.reasons import Posted, Reason, StoreLost
from barrier_core.agreement.round_log import Break, decode_break, decode_verdict, parse
from barrier_core.agreement.slow_round import SlowRound
from barrier_core.agreement.store import ANSWER_SECS, Connect, StoreAccess, StoreClient
from barrier_core.agreement.wakeup import WakeUp
from barrier_core.exhaustion import exhausted
from barrier_core.this_process import after_fork

logger = logging.getLogger("barrier_core")

ASK_SECS = 0.3
"""How often a waiting rank asks whether the round has been decided, which bounds how fast an abort
reaches it. 1,000 waiting ranks ask 3,300 times a second."""
LOOK_SECS = 0.5
"""How often a monitor looks who is missing and whether they live."""
_MONITORS = 3
"""Ranks that look who is missing as often as that: the first to arrive. All would cost O(N^2)."""
_OTHERS_LOOK_SECS = 0.1
"""Seconds between the looks of all other ranks together, in case the monitors themselves die."""
_MANY = 32  # ranks
_SPREAD_SECS = 0.01
"""Seconds per rank over which the first looks of many are spread, up to `LOOK_SECS`."""
_PROGRESS_SECS = 0.5
"""How often progress is sent on, at most."""
_LONGEST_RETRY_SECS = 5.0
_MOST_RETRIES = 25
"""Attempts to connect in a row before it waits to be needed again: about two minutes."""


class Watcher:
    """See the module's text. Started on first need: at once with heartbeats, else when slow.

    Args:
        store: Is told when this rank is about to leave.
        connect: Opens its connection.
        keys: The barrier's keys.
        job: The job's record, as it was when the rank joined.
        rank: The rank that it is the second thread of.
        world_size: Number of ranks.
        heartbeat_secs: Seconds between heartbeats; 0 turns them off.
        failure_detector: Says of missing ranks whether they live.
        liveness_port: What it keeps open for others to probe, if the rank has one.
        post: Gives the rank a reason to end a round.
        connect_by: Until when to wait, in monotonic seconds, for the connection that heartbeats
            need; afterwards it is waited for no more.
    """

    def __init__(
        self,
        store: StoreAccess,
        connect: Connect,
        keys: Keys,
        job: bytes,
        rank: int,
        world_size: int,
        heartbeat_secs: float,
        failure_detector: FailureDetector,
        liveness_port: LivenessPort | None,
        post: Callable[[Posted], None],
        connect_by: float,
    ) -> None:
        self._store = store
        self._connect = connect
        self._client: StoreClient | None = None
        self._keys = keys
        self._job = job
        self._rank = rank
        self._world_size = world_size
        self._heartbeat_secs = heartbeat_secs
        self._failure_detector = failure_detector
        self._liveness_port = liveness_port
        self._post = post
        self._slow: SlowRound | None = None
        self._outdated: list[Batch] = []
        self._progress: str | None = None
        self._progress_at = 0.0
        self._progress_is_new = False
        self._next_progress = 0.0
        self._beats = 0
        self._next_beat = 0.0
        self._next_look = 0.0
        self._asking_since: float | None = None
        """Monotonic time, in seconds, of the first question that the store has not answered."""
        self._has_posted = False
        """Whether a reason that ends the barrier's life has been posted between rounds."""
        self._untold: Break | None = None
        """What the others are to be told as soon as the store can be reached."""
        self._failures = 0
        """Attempts in a row in which the store was not reached."""
        # The port's wait sees to its connections, too: a death ends it at once.
        self._wake_up = liveness_port or WakeUp()
        self._deaths = 0
        """How many deaths had been heard of at the last look."""
        self._stopping = False
        self._has_tried = threading.Event()
        """Set once it has connected, or tried to."""
        self._threads: list[threading.Thread] = []
        """All that were made."""
        self._thread: threading.Thread | None = None
        """Set by itself, once it runs."""
        self._vacancy: list[None] = [None]
        """The thread that takes it away is the watcher's."""
        after_fork(self._end)
        if heartbeat_secs:
            # A new connection can hold up a store, and no rank is in a round before all have got
            # here.
            self._start(is_needed=True)
            try:
                self._has_tried.wait(min(max(connect_by - time.monotonic(), 0.0), ANSWER_SECS))
            except BaseException:
                self._end()
                raise

    # What the caller's threads use. Why this is safe: each method changes single attributes, and
    # the watcher's thread reads them afresh in every turn of its loop.

    def attend(self, slow: SlowRound | None) -> None:
        """Look after a slow round from now on; None: it is over."""
        self._slow = slow
        if slow is not None:
            # Of many, not all at once: each look of a round that has just begun to wait costs O(N).
            spread = random.random() * min(self._world_size * _SPREAD_SECS, LOOK_SECS)
            many = self._world_size > _MANY
            self._next_look = time.monotonic() + spread if many else 0.0
            self._start()
            self._wake_up.call()

    def look_now(self, slow: SlowRound, timeout_secs: float) -> None:
        """Look who is missing from the slow round; return when that is done, or the time is up."""
        slow.looked.clear()
        self._next_look = 0.0
        self._wake_up.call()
        if not slow.has_evidence:
            slow.looked.wait(timeout_secs)

    def silent_secs(self) -> float:
        """Return for how long the store has not answered this thread, in seconds."""
        since = self._asking_since
        return 0.0 if since is None else time.monotonic() - since

    def report_progress(self, progress: str) -> None:
        """Send progress on, at most every half second: a loop may report each item it handles."""
        self._progress = progress
        self._progress_at = time.monotonic()
        if not self._progress_is_new:
            self._progress_is_new = True
            self._start()
            self._wake_up.call()

    def tell(self, alarm: Break) -> None:
        """Tell the others, as soon as the store can be reached, that this rank has given up."""
        self._untold = alarm
        self._failures = 0
        self._start()
        self._wake_up.call()

    def remove(self, rounds: Batch) -> None:
        """Remove the keys of finished rounds, off the fast path; all before them are gone."""
        self._outdated.append(rounds)
        self._start()
        self._wake_up.call()

    def stop(self, timeout_secs: float) -> None:
        """Stop the thread, which closes its connection, within so many seconds or by force."""
        self._end()
        self.join(timeout_secs)
        self._store.is_closing = True

    def join(self, timeout_secs: float) -> None:
        """Wait for the end of the thread, which was stopped, at most so many seconds."""
        deadline = time.monotonic() + timeout_secs
        for thread in self._threads:
            with suppress(RuntimeError):  # it was never started, or it is this one
                thread.join(max(deadline - time.monotonic(), 0.0))

    def _end(self) -> None:
        # Also in a child: an observer may fork on this thread, which then runs there as well.
        self._stopping = True
        self._wake_up.call()

    def _start(self, is_needed: bool = False) -> None:
        # Why this is safe: two threads may start one at once, and a start that Ctrl-C has cut short
        # may have worked or not; but of several threads only the first goes on.
        if self._thread is not None:
            return
        name = f"barrier-watcher-{self._rank}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.remove(thread)
            if is_needed:
                raise
            # In a round. It keeps its limit without the thread; the next need tries again.
            logger.warning("rank %d's barrier has no watcher: %s", self._rank, exhausted(error))

    # The watcher's own thread.

    def _run(self) -> None:
        try:
            del self._vacancy[0]
        except IndexError:
            return
        self._thread = threading.current_thread()
        while not self._stopping:
            try:
                self._turn()
                self._failures = 0
            except ForeignRecordError as error:
                self._give_up(str(error))
            except StoreLostError:
                # The caller notices on its own connection; here the next turn simply tries again.
                self._failures += 1
                self._close_connection()
            except Exception:
                logger.exception("rank %d's barrier watcher failed; trying again", self._rank)
                self._close_connection()
            self._wake_up.wait(self._pause())
        if self._untold is not None and not self._store.is_closing:
            with suppress(StoreLostError):
                self._tell_others(self._client or self._connect())
        self._close_connection()

    def _turn(self) -> None:
        if self._asking_since is None:
            self._asking_since = time.monotonic()
        if self._client is None:
            try:
                self._client = self._connect()
            finally:
                self._has_tried.set()
        self._tell_others(self._client)
        while self._outdated:
            remove_rounds(self._client, self._keys, self._outdated[0])
            del self._outdated[0]
        self._beat(self._client)
        slow = self._slow
        if slow is None and self._liveness_port is not None:
            self._liveness_port.forget_asked()
        if slow is not None and not slow.has_evidence:
            self._look_after(self._client, slow)
        self._asking_since = None

    def _give_up(self, why: str) -> None:
        """Have the barrier end, as somebody else writes to its keys."""
        self._asking_since = None
        if not self._has_posted:
            self._has_posted = True
            self._post(Posted(StoreLost(why)))
        if self._slow is not None:
            self._slow.has_evidence = True
            self._slow.looked.set()

    def _tell_others(self, client: StoreClient) -> None:
        if self._untold is not None:
            # A store that has forgotten the barrier has nobody to tell: all find that out.
            if client.read([self._keys.job]) == [self._job]:
                client.create(self._keys.alarm, msgspec.json.encode(self._untold))
            self._untold = None

    def _pause(self) -> float | None:
        """Return how long to sleep, in seconds; None: until there is something to do."""
        now = time.monotonic()
        if self._failures and self._slow is None:
            if self._failures >= _MOST_RETRIES:
                return None
            return min(ASK_SECS * 2.0**self._failures, _LONGEST_RETRY_SECS)
        pauses = [
            *([ASK_SECS] if self._slow is not None or self._client is None else []),
            *([self._next_progress - now] if self._progress_is_new else []),
            *([self._next_beat - now] if self._heartbeat_secs else []),
        ]
        return max(min(pauses), 0.001) if pauses else None

    def _beat(self, client: StoreClient) -> None:
        now = time.monotonic()
        due = bool(self._heartbeat_secs) and now >= self._next_beat
        if not due and not (self._progress_is_new and now >= self._next_progress):
            return
        self._progress_is_new = False
        self._next_progress = now + _PROGRESS_SECS
        self._beats += 1
        age = None if self._progress is None else now - self._progress_at
        heartbeat = Heartbeat(self._beats, self._progress, age)
        client.write(self._keys.heartbeat(self._rank), msgspec.json.encode(heartbeat))
        if due:
            self._next_beat = now + self._heartbeat_secs
            self._failure_detector.keep_watch(client)
            slow = self._slow
            of_round = [] if slow is None else [slow.keys.log, slow.keys.release]
            client.renew([*self._keys.needed_by(self._rank), *of_round])
            reason = None if self._has_posted else self._ask(client, None)
            if reason is not None:
                self._has_posted = True
                self._post(Posted(reason))

    def _ask(self, client: StoreClient, number: int | None) -> Reason | None:
        """Ask whether the others have decided something."""
        keys = self._keys
        job, verdict, alarm, passed = client.read([keys.job, keys.verdict, keys.alarm, keys.passed])
        return evidence_in_store(
            job != self._job,
            None if verdict is None else decode_verdict(verdict),
            None if alarm is None else decode_break(alarm),
            None if passed is None else read_number(passed, "the number of a round"),
            number,
        )

    def _look_after(self, client: StoreClient, slow: SlowRound) -> None:
        reason = self._ask(client, slow.number)
        about = None
        now = time.monotonic()
        reports = any(now - slow.started >= after for after in slow.report_after)
        if self._liveness_port is not None and self._liveness_port.deaths > self._deaths:
            self._deaths, self._next_look = self._liveness_port.deaths, 0.0
        if reason is None and (now >= self._next_look or reports):
            reason, about = self._look(client, slow), slow.number
            self._next_look = time.monotonic() + self._look_again_after(slow)
            slow.looked.set()
        if reason is not None:
            slow.has_evidence = True
            slow.looked.set()
            self._post(Posted(reason, about))
        elif reports:
            slow.report_due(slow.report, 0.0)

    def _look_again_after(self, slow: SlowRound) -> float:
        """Return the seconds until this rank's next look: all together cost the store O(N)."""
        if self._rank in slow.arrived[:_MONITORS]:
            return LOOK_SECS
        # At random, since all ranks have begun to wait at once and must not look at once.
        return max(LOOK_SECS, 2 * random.random() * _OTHERS_LOOK_SECS * self._world_size)

    def _look(self, client: StoreClient, slow: SlowRound) -> Reason | None:
        """Look who is missing from the round's log, and whether they live."""
        log = parse(client.read([slow.keys.log])[0] or b"", self._world_size)
        slow.arrived = [arrival.rank for arrival in log.arrivals]
        reason = evidence_in_log(log, self._rank, self._world_size, slow.number)
        if reason is not None or self._rank not in slow.arrived:
            return reason
        missing = set(range(self._world_size)).difference(slow.arrived)
        is_monitor = self._rank in slow.arrived[:_MONITORS]
        slow.missing = self._failure_detector.examine(client, missing, asks=is_monitor)
        slow.looked_at = time.monotonic()
        dead, left = (
            [status.rank for status in slow.missing if status.state == state]
            for state in ("dead", "left")
        )
        return evidence_in_log(log, self._rank, self._world_size, slow.number, dead, left)

    def _close_connection(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
