"""Fixtures: an observer whose spans and metrics stay in memory, and a way to read them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from barrier_core.hooks import plugin_manager

# Rank processes import the tests' functions by name, and the example backend.
ROOT = Path(__file__).parents[3]
for folder in (ROOT, ROOT / "examples" / "third_party_backend"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from plugins.opentelemetry.tests.memory import Memory  # noqa: E402


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
