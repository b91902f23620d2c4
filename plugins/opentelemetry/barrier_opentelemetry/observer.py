"""What a round becomes in OpenTelemetry's terms. The README lists the names."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass, field

from opentelemetry import metrics, trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import StatusCode

from barrier_core.plugin_api import (
    Barrier,
    BarrierError,
    BarrierFailedError,
    RankStatus,
    format_ranks,
    hookimpl,
    tag_without_numbers,
)

SCOPE = "barrier_opentelemetry"
BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 600.0, 1800.0)
"""Upper bounds in seconds, proposed for the histogram: from a round trip to a hard limit."""
MOST_PATTERNS = 100
"""Tag patterns that are told apart in one process; what comes later is counted together."""
_THE_REST = "(other)"

# Where the API keeps the global providers. Asking it for one takes long, as it looks at the
# environment. The names in there are not public: without them a provider counts as set.
_TRACES = trace.get_tracer_provider.__globals__
_METRICS = metrics.get_meter_provider.__globals__

_Attributes = dict[str, str | int | float]


@dataclass
class _Event:
    """What `barrier_waiting` told."""

    round: int
    after_secs: float
    attributes: _Attributes


@dataclass
class _Entry:
    """A rank's entry into a round, until the round is over."""

    context: Context = field(default_factory=get_current)
    """The caller's, whose span becomes the parent."""
    wall_ns: int = field(default_factory=time.time_ns)
    monotonic: float = field(default_factory=time.monotonic)
    events: list[_Event] = field(default_factory=list)


class OpenTelemetryObserver:
    """Makes one span, one measurement and, if it fails, one count of every round of this process.

    Installed, it is made without arguments and reports to the providers that the application sets
    up, before or after. To give it others, register it under the installed one's name:
    ``plugin_manager.register(OpenTelemetryObserver(...), "observer opentelemetry")``.

    Args:
        tracer_provider: Where spans go; the global provider if None.
        meter_provider: Where metrics go; the global provider if None.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._has_own_provider = tracer_provider is not None or meter_provider is not None
        # From a global provider that is not set yet, these are proxies for what will be.
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "barrier.wait.duration",
            unit="s",
            description="Time that a rank waited in a barrier.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._failures = meter.create_counter(
            "barrier.failures", unit="{round}", description="Rounds that did not pass, by reason."
        )
        # An entry is replaced by the next one: a call that was interrupted leaves it behind. Why
        # this is safe: one thread at a time is in a barrier, and only it changes the barrier's
        # entry; the watcher's thread appends to what it finds.
        self._entries: weakref.WeakKeyDictionary[Barrier, _Entry] = weakref.WeakKeyDictionary()
        self._patterns: set[str] = set()

    def wants_rounds(self) -> bool:
        """Whether anything listens: a provider of its own, or a global one, set up by now."""
        try:
            tracers, meters = _TRACES["_TRACER_PROVIDER"], _METRICS["_METER_PROVIDER"]
        except KeyError:  # another version of the API
            return True
        if tracers is None is meters:
            return self._has_own_provider
        return (
            self._has_own_provider
            or not isinstance(tracers, trace.NoOpTracerProvider | None)
            or not isinstance(meters, metrics.NoOpMeterProvider | None)
        )

    @hookimpl
    def barrier_enter(self, barrier: Barrier) -> None:
        """Take down the time and the caller's span."""
        if self.wants_rounds():  # also called where another observer wants the round
            self._entries[barrier] = _Entry()

    @hookimpl
    def barrier_waiting(
        self, barrier: Barrier, round: int, waited_secs: float, missing: tuple[RankStatus, ...]
    ) -> None:
        """Take down who is missing, for an event of the span."""
        entry = self._entries.get(barrier)
        if entry is not None:
            entry.events.append(_Event(round, waited_secs, _missing(missing)))

    @hookimpl
    def barrier_exit(self, barrier: Barrier, round: int, tag: str, waited_secs: float) -> None:
        """Report a round that has passed."""
        self._report(barrier, round, tag, waited_secs, None)

    @hookimpl
    def barrier_failed(self, barrier: Barrier, round: int, tag: str, error: BarrierError) -> None:
        """Report a round that is broken."""
        self._report(barrier, round, tag, None, error)

    @hookimpl
    def barrier_closed(self, barrier: Barrier) -> None:
        """Forget the barrier."""
        self._entries.pop(barrier, None)

    def _report(
        self,
        barrier: Barrier,
        round_number: int,
        tag: str,
        waited_secs: float | None,
        error: BarrierError | None,
    ) -> None:
        """Report a round: it is made a span only now, so that no call leaves one open."""
        entry = self._entries.pop(barrier, None)
        if entry is None:  # nothing listened when the round began: its length is not known
            return
        if waited_secs is None:
            waited_secs = time.monotonic() - entry.monotonic
        pattern = self._pattern(tag)
        about = _about(barrier, error)
        outcome = {"barrier.outcome": "passed" if error is None else "failed"}
        metric_attributes = {**about, "barrier.tag_pattern": pattern}
        self._duration.record(waited_secs, {**metric_attributes, **outcome}, context=entry.context)
        if error is not None:
            self._failures.add(1, metric_attributes, context=entry.context)

        attributes: _Attributes = {
            **about,
            **outcome,
            "barrier.round": round_number,
            "barrier.tag": tag,
            "barrier.rank": barrier.rank_info.global_rank,
            "barrier.world_size": barrier.rank_info.global_world_size,
        }
        if isinstance(error, BarrierFailedError):
            attributes.update(_missing(error.verdict.missing))
        span = self._tracer.start_span(
            f"barrier {pattern}" if pattern else "barrier",
            context=entry.context,
            attributes=attributes,
            start_time=entry.wall_ns,
        )
        if span.is_recording():
            for event in entry.events:
                # The watcher may tell of a round that was over when it came to tell.
                if event.round == round_number:
                    at = _later(entry.wall_ns, event.after_secs)
                    span.add_event("barrier.waiting", event.attributes, timestamp=at)
            if error is not None:
                span.set_status(StatusCode.ERROR, str(error))
        # By the monotonic clock: a span does not end before it began if the other one is set back.
        span.end(_later(entry.wall_ns, waited_secs))

    def _pattern(self, tag: str) -> str:
        """Return a tag without its numbers, or `_THE_REST` where there are too many of them."""
        pattern = tag_without_numbers(tag)
        if pattern not in self._patterns:
            if len(self._patterns) >= MOST_PATTERNS:
                return _THE_REST
            self._patterns.add(pattern)
        return pattern


def _about(barrier: Barrier, error: BarrierError | None) -> _Attributes:
    """Return the attributes that a span and the metrics of its round have in common."""
    attributes: _Attributes = {"barrier.type": barrier.barrier_type}
    if barrier.barrier_prefix:  # not every backend has one
        attributes["barrier.prefix"] = barrier.barrier_prefix
    if isinstance(error, BarrierFailedError):
        attributes["error.type"] = error.verdict.kind
    elif error is not None:
        attributes["error.type"] = type(error).__qualname__
    return attributes


def _missing(missing: tuple[RankStatus, ...]) -> _Attributes:
    """Return attributes that say who is missing: in ranges, as there may be thousands."""
    return {
        "barrier.missing.count": len(missing),
        "barrier.missing.ranks": format_ranks(status.rank for status in missing),
    }


def _later(wall_ns: int, seconds: float) -> int:
    return wall_ns + int(seconds * 1e9)
