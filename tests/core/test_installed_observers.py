"""Observers that distributions bring."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from barrier_core.discovery.registry import Registry
from barrier_core.hooks import new_manager
from tests.core.conftest import FailingFinder, Site

# --- observers -----------------------------------------------------------------------------------

OBSERVERS = """
from barrier_core import hookimpl

class Observer:
    made = []

    def __init__(self):
        self.made.append(self)

    @hookimpl
    def barrier_created(self, barrier):
        pass

class Failing:
    def __init__(self):
        raise OSError("no trace directory")
"""


def test_installed_observers_are_made_once(site: Site) -> None:
    site.install(
        "watching",
        "[barriers.observers]\nwatch = observers:Observer\n",
        modules={"observers": OBSERVERS},
    )
    manager = new_manager()
    registry = Registry(manager)

    registry.load_observers()
    registry.load_observers()

    (listening,) = manager.hook.barrier_created.get_hookimpls()
    assert listening.plugin_name == "observer watch"
    assert registry.names() == []


def watching(site: Site) -> Registry:
    """A registry where one observer is installed."""
    site.install(
        "watching",
        "[barriers.observers]\nwatch = observers:Observer\n",
        modules={"observers": OBSERVERS},
    )
    return Registry(new_manager())


@pytest.mark.parametrize(
    ("variable", "value"), [("BARRIER_OBSERVERS", "other"), ("BARRIER_OBSERVERS_BLOCK", "watch")]
)
def test_observers_that_the_environment_leaves_out_are_not_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    registry = watching(site)
    monkeypatch.setenv(variable, value)

    registry.load_observers()

    assert "observers" not in sys.modules


def test_the_lists_for_backends_are_not_for_observers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = watching(site)
    monkeypatch.setenv("BARRIER_PLUGINS", "alpha")
    monkeypatch.setenv("BARRIER_PLUGINS_BLOCK", "watch")

    registry.load_observers()

    assert "observers" in sys.modules


def test_an_observer_that_failed_is_tried_again(site: Site, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    source = f"open({str(traces / 'trace')!r}, 'w').close()\n{OBSERVERS}"
    site.install(
        "watching",
        "[barriers.observers]\nwatch = observers:Observer\n",
        modules={"observers": source},
    )
    manager = new_manager()
    registry = Registry(manager)
    registry.load_observers()
    assert manager.hook.barrier_created.get_hookimpls() == []
    traces.mkdir()

    registry.load_observers()

    assert len(manager.hook.barrier_created.get_hookimpls()) == 1


def test_a_scan_for_observers_that_failed_is_logged_and_done_again(
    site: Site, finder: FailingFinder, caplog: pytest.LogCaptureFixture
) -> None:
    registry = watching(site)

    registry.load_observers()

    (record,) = caplog.records
    assert record.message == "no installed observer is used"
    assert "observers" not in sys.modules

    finder.mended = True
    registry.load_observers()

    assert "observers" in sys.modules


@pytest.mark.parametrize("value", ["observers:Failing", "observers:Absent", "absent:Observer"])
def test_a_broken_observer_is_logged_and_costs_only_itself(
    site: Site, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    site.install(
        "watching",
        f"[barriers.observers]\nbad = {value}\nwatch = observers:Observer\n",
        modules={"observers": OBSERVERS},
    )
    manager = new_manager()

    Registry(manager).load_observers()

    (listening,) = manager.hook.barrier_created.get_hookimpls()
    assert listening.plugin_name == "observer watch"
    (record,) = caplog.records
    assert record.name == "barrier_core"
    assert f"entry point 'bad' = '{value}' of watching 1.0 is left out" in record.message
