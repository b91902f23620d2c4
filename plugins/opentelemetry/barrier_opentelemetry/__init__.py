"""The ``opentelemetry`` observer: a span and two metrics for every round of every barrier."""

from barrier_opentelemetry.observer import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]
