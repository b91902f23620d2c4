"""What the waiting thread and the watcher share of a round that has become slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from barrier_core.agreement.keys import RoundKeys, Series
from barrier_core.hooks import ObservedBarrier, notify, plugin_manager
from barrier_core.verdict import RankStatus


@dataclass
class SlowRound:
    """A round that this rank has been waiting in for a while. A new object for every round."""

    number: int
    tag: str
    keys: RoundKeys
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


def slow_round(barrier: ObservedBarrier, number: int, series: Series, started: float) -> SlowRound:
    """Return a round that has become slow.

    Args:
        barrier: The barrier that it is of.
        number: The round's number.
        series: Of the tag that the rank has come with.
        started: When the rank has entered it, in monotonic seconds.
    """
    listened = bool(plugin_manager.hook.barrier_waiting.get_hookimpls())
    warn_after_secs = barrier.warn_after_secs if listened else None
    return SlowRound(
        number=number,
        tag=series.tag,
        keys=series.keys(number),
        started=started,
        report=partial(report, barrier),
        report_after=[] if warn_after_secs is None else [warn_after_secs],
    )


def report(barrier: ObservedBarrier, slow: SlowRound, waited_secs: float) -> None:
    """Tell the observers who is missing. Runs on the watcher's thread."""
    _tell(barrier, slow, waited_secs, slow.missing, _is_first(barrier, slow))


def report_silence(
    barrier: ObservedBarrier, host: RankStatus | None, slow: SlowRound, waited_secs: float
) -> None:
    """Tell the observers that the store does not answer, by naming the rank that hosts it.

    Each rank does: none knows what the others see. Runs on the waiting thread, or beside it.
    """
    missing = [status for status in slow.missing if host is None or status.rank != host.rank]
    if host is not None:
        missing.insert(0, host)
    if missing:
        reporter = host is not None or _is_first(barrier, slow)
        _tell(barrier, slow, waited_secs, tuple(missing), reporter)


def _is_first(barrier: ObservedBarrier, slow: SlowRound) -> bool:
    return slow.arrived[:1] == [barrier.rank_info.global_rank]


def _tell(
    barrier: ObservedBarrier,
    slow: SlowRound,
    waited_secs: float,
    missing: tuple[RankStatus, ...],
    reporter: bool,
) -> None:
    notify(
        "barrier_waiting",
        barrier=barrier,
        round=slow.number,
        tag=slow.tag,
        waited_secs=waited_secs,
        missing=missing,
        reporter=reporter,
    )
