"""Two hundred plugins in one environment: one scan, and one import."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import importlib_metadata
import pytest

from barrier_core import BARRIER_REGISTRY, UnknownBarrierTypeError, create_barrier
from tests.core.conftest import Site

COUNT = 200
NAMES = [f"backend_{number:03}" for number in range(COUNT)]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that the installed distributions have been gone through."""
    counted: list[str] = []
    real: Callable[..., Iterable[Any]] = importlib_metadata.distributions

    def counting(**context: Any) -> Iterable[Any]:
        counted.append("scan")
        return real(**context)

    monkeypatch.setattr(importlib_metadata, "distributions", counting)
    return counted


def test_of_two_hundred_plugins_the_one_that_is_asked_for_is_imported(
    globally: Site, scans: list[str]
) -> None:
    for name in NAMES:
        globally.install_backend(name)

    barrier = create_barrier("backend_117", global_rank=0, global_world_size=1)
    barrier.execute_barrier()

    assert barrier.barrier_type == "backend_117"
    assert [name for name in NAMES if globally.imported(name)] == ["backend_117"]
    assert len(scans) == 1


def test_two_hundred_plugins_are_scanned_once_whatever_is_asked(
    globally: Site, scans: list[str]
) -> None:
    for name in NAMES:
        globally.install_backend(name)

    assert list(BARRIER_REGISTRY) == NAMES
    assert len(BARRIER_REGISTRY) == COUNT
    assert "backend_042" in BARRIER_REGISTRY
    for _ in range(3):
        create_barrier("backend_000", global_rank=0, global_world_size=1)
        create_barrier("backend_199", global_rank=0, global_world_size=1)
    with pytest.raises(UnknownBarrierTypeError, match="backend_200"):
        create_barrier("backend_200")

    assert [name for name in NAMES if globally.imported(name)] == ["backend_000", "backend_199"]
    assert len(scans) == 1
