"""Providers that keep spans and metrics in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from barrier_opentelemetry import OpenTelemetryObserver

Attributes = dict[str, Any]


class Memory:
    """An observer with providers of its own, and what it has reported to them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.observer = OpenTelemetryObserver(self.tracer_provider, self.meter_provider)

    def spans(self) -> list[ReadableSpan]:
        """The spans of barriers, in the order of ranks and rounds."""
        spans = [span for span in self._exporter.get_finished_spans() if "barrier" in span.name]
        return sorted(spans, key=lambda span: (told(span)["barrier.rank"], span.start_time))

    def span(self) -> ReadableSpan:
        (span,) = self.spans()
        return span

    def durations(self) -> list[HistogramDataPoint]:
        return [point for point in self._points() if isinstance(point, HistogramDataPoint)]

    def failures(self) -> list[tuple[Attributes, int | float]]:
        """The attributes of each counter, and how far it has come."""
        points = [point for point in self._points() if isinstance(point, NumberDataPoint)]
        return [(dict(point.attributes or {}), point.value) for point in points]

    def units(self) -> dict[str, str | None]:
        return {metric.name: metric.unit for metric in self._metrics()}

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()

    def _metrics(self) -> list[Any]:
        data = self._reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else []
        return [
            metric
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def _points(self) -> list[Any]:
        return [point for metric in self._metrics() for point in metric.data.data_points]


def told(span: ReadableSpan) -> Attributes:
    """The attributes of a span."""
    return dict(span.attributes or {})
