"""The conformance suite itself: what it demands of a class that derives from it."""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import barrier_core.testing
from barrier_core.backends.local import LocalBarrier
from barrier_core.capability import Capability
from barrier_core.testing import BarrierContract, RankSpec
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.conformance.rank_side import Visit
from barrier_core.testing.rank_spec import Factory
from barrier_core.testing.rank_threads import RankThreads

A_TEST = "test_rounds_can_be_repeated_without_limit"


def derive(**attributes: Any) -> type[BarrierContract]:
    """A class that derives from the suite, with these attributes."""
    return type("Derived", (BarrierContract,), {"ranks_are": "threads", **attributes})


def replacement(self: BarrierContract) -> None:
    """In place of a standard test."""


def test_importing_the_package_imports_neither_pytest_nor_the_suite() -> None:
    script = "import sys, barrier_core.testing; print('pytest' in sys.modules, len(sys.modules))"

    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    ).stdout

    assert output.startswith("False")


def test_no_plugin_of_pytest_comes_with_the_core() -> None:
    pyproject = (Path(barrier_core.testing.__file__).parents[2] / "pyproject.toml").read_text()

    assert "pytest11" not in pyproject


def test_the_public_names_exist() -> None:
    assert all(hasattr(barrier_core.testing, name) for name in barrier_core.testing.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="BarierContract"):
        _ = barrier_core.testing.BarierContract


@pytest.mark.parametrize("what", [replacement, None])
def test_a_standard_test_cannot_be_replaced_or_dropped_without_a_reason(what: object) -> None:
    with pytest.raises(TypeError, match=f"{A_TEST}: say why"):
        derive(**{A_TEST: what})


def test_a_mixin_cannot_replace_a_standard_test_either() -> None:
    mixin = type("Mixin", (), {A_TEST: replacement})

    with pytest.raises(TypeError, match=f"{A_TEST}: say why"):
        type("Derived", (mixin, BarrierContract), {})


def test_a_standard_test_is_replaced_for_a_reason() -> None:
    cls = derive(**{A_TEST: replacement, "overrides": {A_TEST: "it takes a day here"}})

    assert getattr(cls, A_TEST) is replacement


def test_a_standard_test_is_left_out_for_a_reason_that_is_reported() -> None:
    cls = derive(left_out={A_TEST: "it takes a day here"})

    with pytest.raises(pytest.skip.Exception, match="left out: it takes a day here"):
        getattr(cls, A_TEST)(cls())


@pytest.mark.parametrize("attribute", ["overrides", "left_out"])
@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_reason_must_say_something(attribute: str, reason: object) -> None:
    with pytest.raises(TypeError, match=f"{attribute} gives no reason for {A_TEST}"):
        derive(**{A_TEST: replacement, attribute: {A_TEST: reason}})


def test_a_reason_for_no_standard_test_is_refused() -> None:
    with pytest.raises(TypeError, match="test_of_my_own, which is no standard test"):
        derive(left_out={"test_of_my_own": "why not"})


def test_an_override_that_overrides_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="but the class has it unchanged"):
        derive(overrides={A_TEST: "it was different once"})


def test_the_suite_as_a_whole_cannot_be_switched_off() -> None:
    with pytest.raises(TypeError, match="would drop every standard test"):
        derive(__test__=False)


def test_fewer_than_three_ranks_are_refused() -> None:
    with pytest.raises(TypeError, match="need 3 ranks"):
        derive(world_size=2)


def test_ranks_are_threads_or_processes() -> None:
    with pytest.raises(TypeError, match='"threads" or "processes"'):
        derive(ranks_are="coroutines")


def test_tests_of_ones_own_may_be_added() -> None:
    assert derive(test_of_my_own=replacement).__mro__[1] is BarrierContract


@pytest.mark.parametrize("capability", list(Capability))
def test_every_capability_has_a_test(capability: Capability) -> None:
    tested = [
        needed
        for name, test in inspect.getmembers(BarrierContract)
        if name.startswith("test_")
        for needed in getattr(test, "_needs", ())
    ]

    assert not capability or capability in tested


def test_every_standard_test_says_what_it_stands_for() -> None:
    silent = [
        name
        for name, test in inspect.getmembers(BarrierContract)
        if name.startswith("test_") and not test.__doc__
    ]

    assert silent == []


class TestUndeclared(BarrierContract):
    """Declares less than it can: the rest is skipped, and refused."""

    class LessCapable(LocalBarrier):
        """Can do more than it says."""

        capabilities: ClassVar[Capability] = Capability.NONE

    backend = LessCapable
    ranks_are = "threads"

    @pytest.fixture
    def make_barrier(self) -> Any:
        return lambda spec: self.backend(
            spec.rank,
            spec.world_size,
            barrier_prefix=spec.name,
            timeout_secs=spec.timeout_secs,
        )


# Reports.


@pytest.fixture
def job() -> Job:
    return Job(
        backend="MyBarrier (mine)",
        guarantee="No rank leaves early.",
        ranks=RankThreads(3),
        world_size=3,
        factory=lambda spec: LocalBarrier(spec.rank, spec.world_size, spec.name),
        name="kit-report",
        patience_secs=5,
        seed="4711 test_x",
    )


def test_a_report_reads_like_that_of_a_bug(job: Job) -> None:
    early = Visit(rank=0, entered=1.0, left=1.5, round=1, error=None)
    late = Visit(rank=1, entered=1.75, left=2.0, round=1, error=None)

    with pytest.raises(pytest.fail.Exception) as caught:
        job.check_nobody_was_early({0: [early], 1: [late]})

    report = str(caught.value)
    assert report.startswith("MyBarrier (mine) breaks a guarantee: No rank leaves early.\n")
    assert "rank 0 left round 1 250.00 ms before rank 1 had entered it" in report
    assert report.endswith("BARRIER_CONTRACT_SEED=4711")


def test_a_report_says_what_each_rank_saw(job: Job) -> None:
    job.join()
    job.pass_through(job.arrive(rounds=6))
    job.leave()

    with pytest.raises(pytest.fail.Exception) as caught:
        job.violated("nothing in particular", OSError("disk full"))

    report = str(caught.value)
    assert "    OSError: disk full" in report
    assert all(f"rank {rank}: ... (3 more)" in report for rank in range(3))
    assert report.count("round 6: passed") == 3


def test_a_rank_that_does_not_come_back_is_reported(job: Job) -> None:
    job.patience_secs = 0.2
    job.join()
    arrivals = job.arrive([0, 1])

    with pytest.raises(pytest.fail.Exception, match=r"ranks \[0, 1\] are still in the barrier"):
        job.visits(arrivals)

    job.patience_secs = 5
    job.visits(arrivals | job.arrive([2]))
    job.leave()


def test_the_random_delays_come_from_the_seed(job: Job) -> None:
    again = Job("", "", RankThreads(3), 3, job.factory, "", 5, "4711 test_x")

    assert job.random.random() == again.random.random()


# Ranks.


def test_a_thread_that_is_busy_is_left_behind() -> None:
    ranks = RankThreads(1)
    go = threading.Event()
    stuck = ranks.start(0, lambda rank: go.wait(30))

    ranks.refresh()

    assert ranks.start(0, lambda rank: rank + 41).result(5) == 41
    assert not stuck.done()
    go.set()
    assert stuck.result(5) is True
    ranks.close()


def test_what_a_thread_raises_is_raised_by_its_call() -> None:
    ranks = RankThreads(1)

    with pytest.raises(ZeroDivisionError):
        ranks.start(0, lambda rank: 1 // rank).result(5)
    ranks.close()


def make(suffix: str, spec: RankSpec) -> Any:
    """A factory."""
    return SimpleNamespace(name=spec.name + suffix)


@pytest.mark.parametrize("name", ["elsewhere", "far_away.elsewhere"])
def test_a_factory_whose_module_cannot_be_imported_is_looked_for_where_its_file_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("def make(spec):\n    return spec.name\n")
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere = importlib.import_module(name)
    factory = pickle.loads(pickle.dumps(Factory(functools.partial(elsewhere.make))))
    monkeypatch.undo()
    for each in (name, "far_away"):
        sys.modules.pop(each, None)
    monkeypatch.setattr(sys, "path", list(sys.path))

    made: object = factory.load()(RankSpec(0, 1, "there"))

    assert made == "there"
    for each in (name, "far_away"):
        sys.modules.pop(each, None)


def test_a_factory_that_can_be_imported_is_not_loaded_again() -> None:
    factory = pickle.loads(pickle.dumps(Factory(functools.partial(make, "!"))))

    assert factory.load()(RankSpec(0, 1, "here")).name == "here!"
