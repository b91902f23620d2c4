"""Our ``tcp_store`` with the observer ``opentelemetry``, and nothing that listens to it."""

from __future__ import annotations

from typing import Any, ClassVar

from barrier_core.plugin_api import plugin_manager
from benchmarks.contender import Cost
from benchmarks.contenders.tcp_store import TCPStoreContender


class TelemetryAtRestContender(TCPStoreContender):
    """The plugin is installed, but the program has set up no provider."""

    title = "tcp_store, OpenTelemetry at rest"
    needs: ClassVar[tuple[str, ...]] = (*TCPStoreContender.needs, "barrier_opentelemetry")

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        super().__init__(rank, world_size, port)
        self._observer = self._make_observer()

    def _make_observer(self) -> Any:
        from barrier_opentelemetry import OpenTelemetryObserver

        return OpenTelemetryObserver()

    def run(self, rounds: int) -> Cost:
        # Registered for its own blocks only: an observer hears of all barriers of its process.
        plugin_manager.register(self._observer)
        try:
            return super().run(rounds)
        finally:
            plugin_manager.unregister(self._observer)


CONTENDER = TelemetryAtRestContender
