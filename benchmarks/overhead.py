"""What the framework adds: to a round, to the import, to finding and making a barrier."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barrier_core import Barrier, create_barrier, hookimpl, register_barrier
from barrier_core.hooks import plugin_manager
from barrier_core.observers.trace_observer import TraceObserver

DISTRIBUTIONS = 200


class NoopBarrier(Barrier):
    """A backend that does nothing: all that is left is the framework."""

    barrier_type = "benchmark_noop"

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


class Observer:
    """An observer that does nothing."""

    @hookimpl
    def barrier_enter(self, barrier: Barrier, round: int, tag: str) -> None:
        pass

    @hookimpl
    def barrier_exit(self, barrier: Barrier, round: int, tag: str, waited_secs: float) -> None:
        pass


@dataclass
class Overhead:
    """Microseconds, best and median of the blocks; ratios where they say so."""

    round_without_observers: tuple[float, float]
    round_with_one: tuple[float, float]
    """With one observer, which does nothing."""
    round_with_trace: tuple[float, float]
    """With the trace observer, which writes a line."""
    creation_by_name: tuple[float, float]
    creation_by_constructor: tuple[float, float]
    import_nothing: tuple[float, float]
    import_dependencies: tuple[float, float]
    import_core: tuple[float, float]
    import_ratio: float
    """Of the times that the core and its dependencies add to an interpreter, best of each."""
    dependencies: list[str]
    """Those that importing the core imports."""
    unwanted: list[str]
    """Of torch, click and rich, those that importing the core imports."""
    scan: tuple[float, float]
    """Finding the plugins among some 200 distributions, in a fresh interpreter."""
    scan_reading: tuple[float, float]
    """Reading the two metadata files of each, as often."""


def measure(blocks: int, calls: int, interpreters: int) -> Overhead:
    """Measure all of it; how often is given."""
    bare, quiet, watched, traced = _rounds(blocks, calls)
    by_name, by_constructor = _creation(blocks, max(calls // 10, 10))
    dependencies, unwanted = _imported()
    imports = _imports(interpreters, dependencies)
    nothing, needed, core = (min(times) for times in imports)
    scan, reading = _scans(interpreters)
    return Overhead(
        round_without_observers=_summary(_difference(quiet, bare)),
        round_with_one=_summary(_difference(watched, bare)),
        round_with_trace=_summary(_difference(traced, bare)),
        creation_by_name=_summary(by_name),
        creation_by_constructor=_summary(by_constructor),
        import_nothing=_summary(imports[0]),
        import_dependencies=_summary(imports[1]),
        import_core=_summary(imports[2]),
        import_ratio=(core - nothing) / (needed - nothing),
        dependencies=dependencies,
        unwanted=unwanted,
        scan=_summary(scan),
        scan_reading=_summary(reading),
    )


def _summary(micros: list[float]) -> tuple[float, float]:
    return min(micros), statistics.median(micros)


def _difference(these: list[float], those: list[float]) -> list[float]:
    """Subtract the best of those, a loop around nothing."""
    return [micros - min(those) for micros in these]


def _time(call: Callable[[], object], calls: int) -> float:
    """Return microseconds per call."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def _rounds(blocks: int, calls: int) -> list[list[float]]:
    """Time a bare call of the backend, and the framework with no, one and the trace observer."""
    barrier = NoopBarrier(0, 1)
    times: list[list[float]] = [[], [], [], []]
    with tempfile.TemporaryDirectory() as folder:
        trace = TraceObserver(folder)
        for _ in range(blocks):
            times[0].append(_time(lambda: barrier._wait(1, 1.0, ""), calls))
            for observer, micros in zip((None, Observer(), trace), times[1:], strict=True):
                if observer is not None:
                    plugin_manager.register(observer)
                micros.append(_time(barrier.execute_barrier, calls))
                if observer is not None:
                    plugin_manager.unregister(observer)
            trace.flush(10.0)  # the next block is not to have the writer beside it
        trace.close()
    return times


def _creation(blocks: int, calls: int) -> tuple[list[float], list[float]]:
    """Time making a barrier by name, after the first one, and by its constructor."""
    register_barrier(NoopBarrier)
    name = NoopBarrier.barrier_type
    arguments: dict[str, Any] = {"global_rank": 0, "global_world_size": 1}
    create_barrier(name, **arguments)
    by_name: list[float] = []
    by_constructor: list[float] = []
    for _ in range(blocks):
        by_name.append(_time(lambda: create_barrier(name, **arguments), calls))
        by_constructor.append(_time(lambda: NoopBarrier(**arguments), calls))
    return by_name, by_constructor


def _imported() -> tuple[list[str], list[str]]:
    """Return the hard dependencies that importing the core imports, and what it should not."""
    program = (
        "import sys, json, barrier_core; from importlib_metadata import requires; import re; "
        "names = [re.match('[A-Za-z0-9_.-]+', line)[0].replace('-', '_')"
        " for line in requires('barrier-core') if 'extra ==' not in line]; "
        "print(json.dumps([name for name in names if name in sys.modules])); "
        "print(json.dumps([name for name in ('torch', 'click', 'rich') if name in sys.modules]))"
    )
    dependencies, unwanted = map(json.loads, _python(program).splitlines())
    return dependencies, unwanted


def _imports(interpreters: int, dependencies: list[str]) -> list[list[float]]:
    """Time interpreters that import nothing, the dependencies, and the core, in turn."""
    programs = ["pass", f"import {', '.join(dependencies)}", "import barrier_core"]
    times: list[list[float]] = [[], [], []]
    for _ in range(interpreters):
        for program, micros in zip(programs, times, strict=True):
            started = time.perf_counter()
            _python(program)
            micros.append((time.perf_counter() - started) * 1e6)
    return times


_SCAN = """
import importlib_metadata, time
from barrier_core.discovery.finder import BACKENDS, find_plugins
started = time.perf_counter()
found = find_plugins(BACKENDS)
print((time.perf_counter() - started) * 1e6)
assert sum(plugin.name.startswith("synthetic") for plugin in found) == 200, found
"""
_READ = """
import importlib_metadata, time
import barrier_core.discovery.finder
started = time.perf_counter()
for distribution in importlib_metadata.distributions():
    distribution.read_text("METADATA"), distribution.read_text("entry_points.txt")
print((time.perf_counter() - started) * 1e6)
"""


def _scans(interpreters: int) -> tuple[list[float], list[float]]:
    """Time finding plugins, and reading the files that this needs to read, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(DISTRIBUTIONS):
            metadata = Path(folder) / f"synthetic_{number}-1.0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: synthetic-{number}\nVersion: 1.0\n"
            )
            (metadata / "entry_points.txt").write_text(
                f"[barriers]\nsynthetic_{number} = synthetic_{number}:Barrier\n"
            )
        scans: list[float] = []
        readings: list[float] = []
        for _ in range(interpreters):
            scans.append(float(_python(_SCAN, folder)))
            readings.append(float(_python(_READ, folder)))
        return scans, readings


def _python(program: str, path: str | None = None) -> str:
    """Run a program in a fresh interpreter; return what it prints."""
    environ = dict(os.environ) if path is None else {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environ
    )
    return done.stdout
