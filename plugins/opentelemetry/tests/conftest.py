"""Fixtures: an observer whose spans and metrics stay in memory, and a way to read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from barrier_core.hooks import plugin_manager
from plugins.opentelemetry.tests.memory import Memory


@pytest.fixture
def memory() -> Iterator[Memory]:
    """What an observer of all barriers in this process reports."""
    memory = Memory()
    yield memory
    if plugin_manager.is_registered(memory.observer):
        plugin_manager.unregister(memory.observer)
    memory.close()


@pytest.fixture
def observed(memory: Memory) -> Memory:
    """The same, with the observer registered."""
    plugin_manager.register(memory.observer)
    return memory
