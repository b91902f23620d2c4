"""Our ``tcp_store`` with a span and two metrics of each round, in JSON to ``/dev/null``."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from benchmarks.contenders.telemetry_at_rest import TelemetryAtRestContender


class TelemetryContender(TelemetryAtRestContender):
    """With the SDK's batch processor, its periodic reader, and its exporters to a file."""

    title = "tcp_store, OpenTelemetry exporting"

    @classmethod
    def obstacle(cls) -> str | None:
        missing = super().obstacle()
        if missing is None and importlib.util.find_spec("opentelemetry.sdk") is None:
            missing = "opentelemetry-sdk not installed"
        return missing

    def _make_observer(self) -> Any:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import (
            ConsoleMetricExporter,
            PeriodicExportingMetricReader,
        )
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        from barrier_opentelemetry import OpenTelemetryObserver

        self._sink = open(os.devnull, "w")  # noqa: SIM115 - closed by `leave`
        self._tracers = TracerProvider(shutdown_on_exit=False)
        self._tracers.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=self._sink)))
        reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=self._sink))
        self._meters = MeterProvider([reader], shutdown_on_exit=False)
        return OpenTelemetryObserver(self._tracers, self._meters)

    def leave(self) -> None:
        super().leave()
        self._tracers.shutdown()
        self._meters.shutdown()
        self._sink.close()


CONTENDER = TelemetryContender
