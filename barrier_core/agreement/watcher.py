"""The second thread of a rank: heartbeats, and looking after a round that has become slow.

It has a line of its own, because the caller's may be blocked for as long as the round lasts. It
only ever finds things out; the caller's thread alone decides, on its own line, in the order that
the protocol needs.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from barrier_core.agreement.keys import Keys, Series
from barrier_core.agreement.liveness import LivenessPort
from barrier_core.agreement.membership import FailureDetector, Heartbeat
from barrier_core.agreement.round_log import Break, decode_break, decode_verdict, parse
from barrier_core.agreement.store import Connect, StoreClient, StoreLostError
from barrier_core.agreement.wakeup import WakeUp
from barrier_core.verdict import RankStatus, Verdict, format_ranks

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
_PROGRESS_SECS = 0.5
"""How often progress is sent on, at most."""


class Passed:
    """Another rank has found out that the round has passed."""


Finding = Break | Verdict | Passed
"""What the watcher found: a reason to give up, a round decided by others, or a round passed."""


@dataclass
class SlowRound:
    """A round that this rank has been waiting in for a while. A new object for every round."""

    number: int
    tag: str
    log: str
    """Key of the round's log."""
    started: float
    """Monotonic time in seconds, of this process."""
    wake: Callable[[], None]
    """Ends the caller's wait, so that it looks at `finding`."""
    report: Callable[[SlowRound, float], None]
    """Tells the observers who is missing, after this many seconds."""
    report_after: float
    """Seconds from the start until the next report; infinite when nobody listens."""
    missing: tuple[RankStatus, ...] = ()
    finding: Finding | None = None
    looked_at: float = 0.0
    """Monotonic time, in seconds, at which `missing` was true."""
    looked: threading.Event = field(default_factory=threading.Event)
    """Set at every look, and once there is a finding."""
    arrived: list[int] = field(default_factory=list)
    """Ranks in the order of their arrival, when last looked."""


class Watcher:
    """See the module's text. Started on first need: at once with heartbeats, else when slow."""

    def __init__(
        self,
        connect: Connect,
        keys: Keys,
        rank: int,
        world_size: int,
        heartbeat_secs: float,
        examiner: FailureDetector,
        beacon: LivenessPort | None,
    ) -> None:
        self._connect = connect
        self._line: StoreClient | None = None
        self._keys = keys
        self._rank = rank
        self._world_size = world_size
        self._heartbeat_secs = heartbeat_secs
        self._examiner = examiner
        self._beacon = beacon
        self._slow: SlowRound | None = None
        self._outdated: list[list[tuple[int, Series]]] = []
        self._progress: str | None = None
        self._progress_at = 0.0
        self._progress_is_new = False
        self._next_progress = 0.0
        self._beats = 0
        self._next_beat = 0.0
        self._next_look = 0.0
        self._wakeup = WakeUp()
        self._stopping = False
        self._thread: threading.Thread | None = None
        """Set by itself, once it runs."""
        self._vacancy: list[None] = [None]
        """The thread that takes it away is the watcher's."""
        self.notice: Finding | None = None
        """Something that concerns the next round: this barrier is broken, or about to be."""
        if heartbeat_secs:
            # Now rather than on the thread: a new connection can hold up a store, and no rank is in
            # a round before all have got here.
            with suppress(StoreLostError):
                self._line = connect()
            self._start()

    # What the caller's threads use. Why this is safe: each method changes single attributes, and
    # the watcher's thread reads them afresh in every turn of its loop.

    def attend(self, slow: SlowRound | None) -> None:
        """Look after a slow round from now on; None: it is over."""
        self._slow = slow
        if slow is not None:
            self._next_look = 0.0
            self._start()
            self._wakeup.call()

    def look_now(self, slow: SlowRound, timeout_secs: float) -> None:
        """Look who is missing from the slow round; return when that is done, or the time is up."""
        slow.looked.clear()
        self._next_look = 0.0
        self._wakeup.call()
        if slow.finding is None:  # with one, the watcher looks no more
            slow.looked.wait(timeout_secs)

    def report_progress(self, progress: str) -> None:
        """Send progress on, at most every half second: a loop may report each item it handles."""
        self._progress = progress
        self._progress_at = time.monotonic()
        if not self._progress_is_new:
            self._progress_is_new = True
            self._start()
            self._wakeup.call()

    def collect(self, rounds: list[tuple[int, Series]]) -> None:
        """Remove the keys of finished rounds, off the fast path; all before them are gone."""
        self._outdated.append(rounds)
        self._start()
        self._wakeup.call()

    def stop(self, timeout_secs: float) -> None:
        """Stop the thread and hang up its line."""
        self._stopping = True
        self._wakeup.call()
        if self._thread is not None:
            self._thread.join(timeout_secs)

    def _start(self) -> None:
        # Why this is safe: two threads may start one at once, and a start that Ctrl-C has cut short
        # may have worked or not; but of several threads only the first goes on.
        if self._thread is None:
            name = f"barrier-watcher-{self._rank}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

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
            except StoreLostError:
                # The caller notices on its own line; here the next turn simply tries again.
                self._hang_up()
            except Exception:
                logger.exception("rank %d's barrier watcher failed; trying again", self._rank)
                self._hang_up()
            self._wakeup.wait(self._pause())
        self._hang_up()

    def _turn(self) -> None:
        if self._line is None:
            self._line = self._connect()
        while self._outdated:
            rounds = self._outdated[0]
            finished = [series.keys(number) for number, series in rounds]
            # A log goes after its bell: while it stands, `retire` can find what is left.
            self._line.remove([key for keys in finished for key in (keys.bell, keys.log)])
            self._line.write(self._keys.collected, b"%d" % rounds[-1][0])
            del self._outdated[0]
        self._beat(self._line)
        slow = self._slow
        if slow is not None and slow.finding is None:
            self._look_after(self._line, slow)

    def _pause(self) -> float | None:
        """Return how long to sleep, in seconds; None: until there is something to do."""
        now = time.monotonic()
        pauses = [
            *([ASK_SECS] if self._slow is not None or self._line is None else []),
            *([self._next_progress - now] if self._progress_is_new else []),
            *([self._next_beat - now] if self._heartbeat_secs else []),
        ]
        return max(min(pauses), 0.001) if pauses else None

    def _beat(self, line: StoreClient) -> None:
        now = time.monotonic()
        due = bool(self._heartbeat_secs) and now >= self._next_beat
        if not due and not (self._progress_is_new and now >= self._next_progress):
            return
        self._progress_is_new = False
        self._next_progress = now + _PROGRESS_SECS
        self._beats += 1
        age = None if self._progress is None else now - self._progress_at
        pulse = Heartbeat(self._beats, self._progress, age)
        line.write(self._keys.pulse(self._rank), msgspec.json.encode(pulse))
        if due:
            self._next_beat = now + self._heartbeat_secs
            if self._beacon is not None:
                self._beacon.drain()
            self.notice = self._ask(line, None) or self.notice

    def _ask(self, line: StoreClient, round_number: int | None) -> Finding | None:
        """Ask whether the others have decided something."""
        verdict, alarm, passed = line.read(
            [self._keys.verdict, self._keys.alarm, self._keys.passed]
        )
        if verdict is not None:
            return decode_verdict(verdict)
        if alarm is not None:
            return decode_break(alarm)
        if passed is not None and round_number is not None and int(passed) >= round_number:
            return Passed()
        return None

    def _look_after(self, line: StoreClient, slow: SlowRound) -> None:
        slow.finding = self._ask(line, slow.number)
        now = time.monotonic()
        waited = now - slow.started
        reports = waited >= slow.report_after
        if slow.finding is None and (now >= self._next_look or reports):
            slow.finding = self._look(line, slow)
            self._next_look = time.monotonic() + self._look_again_after(slow)
            slow.looked.set()
        if slow.finding is not None:
            slow.looked.set()
            slow.wake()
        elif reports:
            slow.report_after *= 2
            slow.report(slow, waited)

    def _look_again_after(self, slow: SlowRound) -> float:
        """Return the seconds until this rank's next look: all together cost the store O(N)."""
        if self._rank in slow.arrived[:_MONITORS]:
            return LOOK_SECS
        # At random, since all ranks have begun to wait at once and must not look at once.
        return max(LOOK_SECS, 2 * random.random() * _OTHERS_LOOK_SECS * self._world_size)

    def _look(self, line: StoreClient, slow: SlowRound) -> Finding | None:
        log = parse(line.read([slow.log])[0] or b"")
        slow.arrived = [arrival.rank for arrival in log.arrivals]
        if log.broken_by is not None:
            return log.broken_by
        if self._rank not in slow.arrived:
            # A record on its way is seen at the next look; one that is never there is not.
            return None
        if len(log.tags) > 1:
            # The verdict says which: a rank's own look may miss those who come a moment later.
            return Break("mismatch", self._rank, "the ranks came with different tags")
        if len(slow.arrived) == self._world_size:
            return Passed()
        slow.missing = self._examiner.examine(
            line, set(range(self._world_size)).difference(slow.arrived)
        )
        slow.looked_at = time.monotonic()
        dead = [status.rank for status in slow.missing if status.state == "dead"]
        if dead:
            # The verdict itself says how and where.
            what = "ranks" if len(dead) > 1 else "rank"
            return Break("dead", self._rank, f"found {what} {format_ranks(dead)} dead")
        return None

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
