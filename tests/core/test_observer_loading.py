"""Installed observers that hang, are slow or want to end the process: barriers go on without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
import pytest

from barrier_core import hookimpl
from barrier_core.discovery.registry import Registry
from barrier_core.hooks import new_manager
from tests.core.conftest import Site

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = "[barriers.observers]\nslow = slow_module:Observer\nwatch = watch_module:Observer\n"

OBSERVER = """
from barrier_core import hookimpl

class Observer:
    made = 0

    def __init__(self):
        Observer.made += 1
        {construction}

    @hookimpl
    def barrier_created(self, barrier):
        pass

{at_import}
"""
SLOW = "import gate; gate.reached.set(); gate.opened.wait(60)"
OUTSIDE = {"at_import": "", "construction": "pass"}

everywhere = pytest.mark.parametrize("where", ["at_import", "construction"])


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Iterator[Any]:
    """A module for observers: they say that they reached it, and wait until it is opened."""
    module: Any = ModuleType("gate")
    module.reached, module.opened, module.registry = threading.Event(), threading.Event(), registry
    monkeypatch.setitem(sys.modules, "gate", module)
    yield module
    module.opened.set()
    for thread in threading.enumerate():
        if thread.name.startswith("barrier-observer-"):
            thread.join(30)


@pytest.fixture
def manager() -> pluggy.PluginManager:
    return new_manager()


@pytest.fixture
def registry(manager: pluggy.PluginManager) -> Registry:
    return Registry(manager)


def install(site: Site, where: str, what: str) -> None:
    """Install two observers: ``slow``, which does something somewhere, and the sound ``watch``."""
    slow = OBSERVER.format(**{**OUTSIDE, where: what})
    modules = {"slow_module": slow, "watch_module": OBSERVER.format(**OUTSIDE)}
    site.install("watching", ENTRY_POINTS, "1.2", modules)


def listening(manager: pluggy.PluginManager) -> list[str]:
    return sorted(impl.plugin_name for impl in manager.hook.barrier_created.get_hookimpls())


@everywhere
def test_one_that_hangs_is_left_out_and_named(
    site: Site,
    registry: Registry,
    manager: pluggy.PluginManager,
    gate: Any,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    install(site, where, SLOW)

    registry.load_observers(limit_secs=0.2)
    assert gate.reached.is_set()
    registry.load_observers(limit_secs=60)  # it has had its time: nobody waits again

    assert listening(manager) == ["observer watch"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("barrier_core", "WARNING")
    assert "'slow' = 'slow_module:Observer' of watching 1.2 is left out" in record.message
    assert record.message.endswith("block it with BARRIER_OBSERVERS_BLOCK=slow")


@everywhere
def test_one_that_is_ready_late_watches_the_barriers_made_after_that(
    site: Site, registry: Registry, manager: pluggy.PluginManager, gate: Any, where: str
) -> None:
    install(site, where, SLOW)
    registry.load_observers(limit_secs=0.2)
    gate.opened.set()
    for thread in threading.enumerate():
        if thread.name == "barrier-observer-slow":
            thread.join(30)
    assert listening(manager) == ["observer watch"]  # not in the middle of a round

    registry.load_observers()

    assert listening(manager) == ["observer slow", "observer watch"]
    assert sys.modules["slow_module"].Observer.made == 1


def test_one_that_is_slow_is_waited_for_by_all_threads_and_made_once(
    site: Site, registry: Registry, manager: pluggy.PluginManager, gate: Any
) -> None:
    install(site, "construction", SLOW)
    site.install_backend("alpha")
    heard: list[list[str]] = []

    def load() -> None:
        registry.load_observers(limit_secs=60)
        heard.append(listening(manager))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(30)
    # Nobody else waits: what a hanging observer holds is not the registry's.
    assert registry.get("alpha").__module__ == "module_of_alpha"
    assert heard == []
    gate.opened.set()
    for thread in threads:
        thread.join(30)

    assert heard == [["observer slow", "observer watch"]] * 2
    assert sys.modules["slow_module"].Observer.made == 1


@everywhere
@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "BaseException('no')"])
def test_one_that_wants_to_end_the_process_costs_only_itself(
    site: Site,
    registry: Registry,
    manager: pluggy.PluginManager,
    caplog: pytest.LogCaptureFixture,
    where: str,
    error: str,
) -> None:
    install(site, where, f"raise {error}")

    registry.load_observers()

    assert listening(manager) == ["observer watch"]
    (record,) = caplog.records
    assert "'slow' = 'slow_module:Observer' of watching 1.2 is left out" in record.message
    assert error.partition("(")[0] in caplog.text


def test_one_with_a_wrong_hook_is_not_half_registered(
    site: Site, registry: Registry, manager: pluggy.PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    # Sorted, as pluggy takes them, it comes after a right one.
    wrong = "@hookimpl\n    def barrier_failed(self, no_such_argument): pass"
    install(site, "construction", f"pass\n    {wrong}")

    registry.load_observers()

    assert listening(manager) == ["observer watch"]
    assert [name for name, _ in manager.list_name_plugin()] == ["observer watch"]
    assert "is left out" in caplog.records[0].message
    assert "no_such_argument" in caplog.text


@pytest.mark.usefixtures("gate")
def test_one_that_makes_a_barrier_of_its_own_does_not_wait_for_itself(
    site: Site, registry: Registry, manager: pluggy.PluginManager
) -> None:
    install(site, "construction", "import gate; gate.registry.load_observers()")

    registry.load_observers()

    assert listening(manager) == ["observer slow", "observer watch"]


def test_without_threads_there_are_no_observers(
    site: Site,
    registry: Registry,
    manager: pluggy.PluginManager,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    install(site, "construction", "pass")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        registry.load_observers()
    assert listening(manager) == []
    assert "interpreter shutdown" in caplog.text

    registry.load_observers()

    assert listening(manager) == ["observer slow", "observer watch"]


def test_one_registered_by_hand_takes_the_place_of_the_installed_one_of_its_name(
    site: Site, registry: Registry, manager: pluggy.PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    class Mine:
        @hookimpl
        def barrier_created(self) -> None:
            pass

    install(site, "construction", "pass")
    mine = Mine()
    manager.register(mine, "observer slow")

    registry.load_observers()
    registry.load_observers()

    assert listening(manager) == ["observer slow", "observer watch"]
    assert manager.get_plugin("observer slow") is mine
    assert "slow_module" not in sys.modules
    assert caplog.records == []


def test_of_two_distributions_that_claim_a_name_the_second_is_logged(
    site: Site, registry: Registry, manager: pluggy.PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "construction", "pass")
    site.install("zzz", "[barriers.observers]\nwatch = slow_module:Observer\n")

    registry.load_observers()

    assert listening(manager) == ["observer slow", "observer watch"]
    (record,) = caplog.records
    assert "'watch' = 'slow_module:Observer' of zzz 1.0 is left out" in record.message


# --- in a process of its own ---------------------------------------------------------------------

HANGING = """
import time
class Observer:
    def __init__(self):
        print("reached", flush=True)
        time.sleep(600)
"""


# Where a shell has put the test run into the background, Ctrl-C is ignored from the start.
HEEDS_CONTROL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def start(site: Site, script: str) -> subprocess.Popen[str]:
    """Start a script that finds an observer which hangs; return when it hangs."""
    site.install("watching", ENTRY_POINTS.partition("watch =")[0], "1.2", {"slow_module": HANGING})
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HEEDS_CONTROL_C + script],
        env={**os.environ, "PYTHONPATH": f"{site.path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    return process


def test_control_c_ends_the_wait_for_one_that_hangs(site: Site) -> None:
    script = "from barrier_core import create_barrier\n"
    script += "create_barrier('local', global_rank=0, global_world_size=1)"
    process = start(site, script)

    process.send_signal(signal.SIGINT)

    _, errors = process.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_forked_child_neither_waits_for_one_that_hangs_nor_tries_it_again(site: Site) -> None:
    script = """
import os
from barrier_core.hooks import new_manager
from barrier_core.discovery.registry import Registry

registry = Registry(new_manager())
registry.load_observers(limit_secs=0.1)
child = os.fork()
registry.load_observers(limit_secs=600)
if child:
    print("the child ended with", os.waitpid(child, 0)[1])
"""
    process = start(site, script)

    output, errors = process.communicate(timeout=60)

    assert output == "the child ended with 0\n"
    # Another one that is installed may take longer than that, where the machine is busy.
    assert errors.count("BARRIER_OBSERVERS_BLOCK=slow") == 1
