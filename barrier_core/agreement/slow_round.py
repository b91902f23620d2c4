"""What the waiting thread and the watcher share of a round that has become slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from barrier_core.verdict import RankStatus


@dataclass
class SlowRound:
    """A round that this rank has been waiting in for a while. A new object for every round."""

    number: int
    tag: str
    log: str
    """Key of the round's log."""
    started: float
    """Monotonic time in seconds, of this process."""
    report: Callable[[SlowRound, float], None]
    """Tells the observers who is missing, after this many seconds."""
    report_after: list[float]
    """Seconds from the start until the next report; empty when nobody listens, and while the thread
    reports that has taken it out: one of the two that may."""
    missing: tuple[RankStatus, ...] = ()
    looked_at: float = 0.0
    """Monotonic time, in seconds, at which `missing` was true."""
    looked: threading.Event = field(default_factory=threading.Event)
    """Set at every look, and once there is evidence."""
    arrived: list[int] = field(default_factory=list)
    """Ranks in the order of their arrival, when last looked."""
    has_evidence: bool = False
    """Whether a reason to end the round has been posted; the watcher then looks no more."""

    def report_due(self, report: Callable[[SlowRound, float], None], overdue_secs: float) -> None:
        """Report if it is time.

        Args:
            report: Tells the observers who is missing, after this many seconds.
            overdue_secs: By how many seconds the time must have passed.
        """
        waited = time.monotonic() - self.started
        for after in self.report_after[:1]:
            if waited >= after + overdue_secs:
                try:
                    self.report_after.remove(after)
                except ValueError:
                    return  # the other thread has just begun
                report(self, waited)
                self.report_after.append(after * 2)
