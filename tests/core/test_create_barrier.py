"""From a name and arguments to a barrier, and every kind of input that makes none."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from barrier_core import (
    Barrier,
    BarrierConfig,
    BarrierConfigError,
    BarrierError,
    BarrierPluginError,
    RankInfo,
    UnknownBarrierTypeError,
    create_barrier,
    create_barrier_from_config,
    hookimpl,
    register_barrier,
)
from barrier_core.discovery.registry import registry as the_registry
from barrier_core.hooks import plugin_manager
from barrier_core.options import TimeoutSecs, WarnAfterSecs
from tests.core.conftest import Site


class Sample(Barrier):
    """A barrier that never waits."""

    barrier_type = "sample"

    def __init__(
        self,
        global_rank: int,
        global_world_size: int,
        barrier_prefix: str,
        timeout_secs: TimeoutSecs = 600.0,
        warn_after_secs: WarnAfterSecs = 30.0,
        port: int = 29511,
    ) -> None:
        super().__init__(global_rank, global_world_size, timeout_secs, warn_after_secs)
        self.barrier_prefix = barrier_prefix
        self.port = port

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


@pytest.fixture(autouse=True)
def _sample_is_registered() -> Iterator[None]:
    register_barrier(Sample)
    yield
    the_registry.unregister("sample")


@pytest.fixture(autouse=True)
def _under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")


SAMPLE = BarrierConfig("sample", {"barrier_prefix": "ckpt", "timeout_secs": 60})


def test_a_barrier_is_made_from_its_config() -> None:
    barrier = create_barrier_from_config(SAMPLE)

    assert isinstance(barrier, Sample)
    assert (barrier.barrier_prefix, barrier.timeout_secs) == ("ckpt", 60.0)
    assert (barrier.rank_info.global_rank, barrier.rank_info.global_world_size) == (1, 4)


def test_a_barrier_is_made_by_name() -> None:
    barrier = create_barrier("sample", RankInfo(2, 3), barrier_prefix="ckpt", port="29600")

    assert isinstance(barrier, Sample)
    assert barrier.port == 29600
    assert (barrier.rank_info.global_rank, barrier.rank_info.global_world_size) == (2, 3)


def test_a_value_from_the_environment_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARRIER_TYPE", "sample")
    monkeypatch.setenv("BARRIER_ARG_BARRIER_PREFIX", "ckpt")
    monkeypatch.setenv("BARRIER_ARG_TIMEOUT_SECS", "2.5")
    monkeypatch.setenv("BARRIER_ARG_WARN_AFTER_SECS", "none")

    barrier = create_barrier_from_config(BarrierConfig.from_environment())

    assert isinstance(barrier, Sample)
    assert (barrier.timeout_secs, barrier.warn_after_secs) == (2.5, None)


def test_a_barrier_between_threads_is_refused_where_a_launcher_has_made_processes_of_the_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BARRIER_TYPE", "local")

    with pytest.raises(BarrierConfigError) as refused:
        create_barrier_from_config(BarrierConfig.from_environment())

    assert str(refused.value) == (
        "barrier_type='local' cannot be used here: its ranks are threads of one process, and the "
        "launcher has started a process for each of 4 ranks; choose another type, such as "
        "tcp_store (`barrier list` shows them), or give global_rank and global_world_size where "
        "the ranks are threads"
    )


@pytest.mark.parametrize("who", ["arguments", "rank_info"])
def test_threads_of_a_process_that_a_launcher_has_started_may_be_ranks(who: str) -> None:
    for rank in range(2):
        if who == "arguments":
            barrier = create_barrier("local", global_rank=rank, global_world_size=2)
        else:
            barrier = create_barrier("local", RankInfo(rank, 2))
        with barrier:
            assert barrier.rank_info.global_rank == rank


def test_a_launcher_that_has_started_one_rank_may_have_it_in_a_barrier_between_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")

    with create_barrier("local") as alone:
        alone.execute_barrier()


@pytest.mark.parametrize("text", ["none", "inf", "null"])
def test_the_environment_can_say_that_there_is_no_limit(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("BARRIER_ARG_TIMEOUT_SECS", text)

    barrier = create_barrier_from_config(
        BarrierConfig("sample", {"barrier_prefix": "ckpt"})._overridden(os.environ)
    )

    assert isinstance(barrier, Sample)
    assert barrier.timeout_secs == math.inf


def test_no_type_makes_no_barrier() -> None:
    assert create_barrier_from_config(BarrierConfig()) is None
    assert create_barrier_from_config(BarrierConfig(None, {"anything": 1})) is None


def test_observers_hear_that_a_barrier_was_made() -> None:
    class Observer:
        made: list[Barrier]

        @hookimpl
        def barrier_created(self, barrier: Barrier) -> None:
            self.made = [barrier]

    observer = Observer()
    plugin_manager.register(observer)
    try:
        barrier = create_barrier_from_config(SAMPLE)
    finally:
        plugin_manager.unregister(observer)

    assert observer.made == [barrier]


def test_a_class_of_torchs_contract_is_created_unchanged() -> None:
    class OfTorch:
        def __init__(self, barrier_prefix: str = "") -> None:
            self.barrier_prefix = barrier_prefix

        def execute_barrier(self) -> None:
            pass

    register_barrier(OfTorch, "of_torch")
    try:
        barrier: object = create_barrier("of_torch", barrier_prefix="ckpt")
    finally:
        the_registry.unregister("of_torch")

    assert isinstance(barrier, OfTorch)
    assert barrier.barrier_prefix == "ckpt"


# --- every kind of bad input ---------------------------------------------------------------------


def sample(**args: Any) -> Callable[[], object]:
    return lambda: create_barrier("sample", **{"barrier_prefix": "ckpt", **args})


def from_config(*args: Any) -> Callable[[], object]:
    return lambda: create_barrier_from_config(BarrierConfig(*args))


NOT_SECONDS = "must be a positive number of seconds, or inf for no limit"
NOT_FINITE = "must be a positive, finite number of seconds"

BAD_INPUT: dict[str, tuple[Callable[[], object], type[BarrierError], list[str]]] = {
    "an unknown type": (
        from_config("nowhere"),
        UnknownBarrierTypeError,
        ["Unknown barrier type: 'nowhere'", "Available types: ", "'sample'"],
    ),
    "a type with a near match": (
        from_config("sampel"),
        UnknownBarrierTypeError,
        ["'sampel'", "Did you mean 'sample'?"],
    ),
    "an empty type": (from_config(""), UnknownBarrierTypeError, ["''", "'sample'"]),
    "a type that is no name": (
        from_config(7),
        BarrierConfigError,
        ["barrier_type=7", "must be a name"],
    ),
    "a type that is a class": (
        from_config(Sample),
        BarrierConfigError,
        ["barrier_type=", "Sample", "must be a name"],
    ),
    "no type where a barrier is asked for": (
        lambda: create_barrier(None),  # type: ignore[arg-type]  # that is the point
        BarrierConfigError,
        ["needs the name of a barrier type", "None"],
    ),
    "arguments that are no mapping": (
        from_config("sample", ["ckpt"]),
        BarrierConfigError,
        ["barrier_args is a list", "must be a mapping"],
    ),
    "an unknown argument": (
        sample(colour="blue"),
        BarrierConfigError,
        ["sample barrier", "colour", "it takes global_rank"],
    ),
    "an argument with a near match": (
        sample(prot=29511),
        BarrierConfigError,
        ["sample barrier", "prot;", "did you mean port?"],
    ),
    "a missing argument": (
        from_config("sample"),
        BarrierConfigError,
        ["sample barrier", "barrier_prefix", "barrier_args", "barrier info sample"],
    ),
    "an argument of the wrong type": (
        sample(port="http"),
        BarrierConfigError,
        ["port='http'", "sample barrier", "int"],
    ),
    "a negative timeout": (sample(timeout_secs=-1), BarrierConfigError, ["-1", NOT_SECONDS]),
    "a timeout of zero": (sample(timeout_secs=0), BarrierConfigError, ["=0", NOT_SECONDS]),
    "a timeout that is no number": (
        sample(timeout_secs=math.nan),
        BarrierConfigError,
        ["timeout_secs=nan", NOT_SECONDS],
    ),
    "a timeout that is no number, as text": (
        sample(timeout_secs="nan"),
        BarrierConfigError,
        ["timeout_secs=nan", NOT_SECONDS],
    ),
    "an endless soft limit": (
        sample(warn_after_secs=math.inf),
        BarrierConfigError,
        ["warn_after_secs=inf", NOT_FINITE],
    ),
    "a timeout that is a switch": (
        sample(timeout_secs=True),
        BarrierConfigError,
        ["timeout_secs=True", "float"],
    ),
    "a negative soft limit": (
        sample(warn_after_secs=-1),
        BarrierConfigError,
        ["warn_after_secs=-1", NOT_FINITE],
    ),
    "a rank beyond the world": (
        sample(global_rank=4),
        BarrierConfigError,
        ["global_rank=4", "between 0 and 3", "global_world_size=4"],
    ),
    "a negative rank": (sample(global_rank=-1), BarrierConfigError, ["global_rank=-1"]),
    "a world that no rank can hold": (
        sample(global_rank=2**62, global_world_size=2**63),
        BarrierConfigError,
        ["global_world_size=9223372036854775808", "at most 262144"],
    ),
    "a number that cannot be written": (
        sample(global_rank=10**9999),
        BarrierConfigError,
        ["global_rank=(a number of 33216 bits)"],
    ),
    "a world of nobody": (
        sample(global_world_size=0),
        BarrierConfigError,
        ["global_world_size=0", "at least 1"],
    ),
}


@pytest.mark.parametrize(("create", "error", "fragments"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_an_error_that_says_what_to_do(
    create: Callable[[], object], error: type[BarrierError], fragments: list[str]
) -> None:
    with pytest.raises(error) as raised:
        create()

    assert type(raised.value) is error
    assert isinstance(raised.value, ValueError)
    assert [fragment for fragment in fragments if fragment not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("environ", "fragments"),
    [
        ({"RANK": "abc"}, ["RANK='abc'", "torchrun"]),
        ({"RANK": "4"}, ["RANK=4, WORLD_SIZE=4", "torchrun"]),
        ({"WORLD_SIZE": "0"}, ["WORLD_SIZE=0", "at least 1"]),
    ],
)
def test_an_environment_that_contradicts_itself_makes_no_barrier(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], fragments: list[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(BarrierConfigError) as raised:
        create_barrier("sample", barrier_prefix="ckpt")

    assert [fragment for fragment in fragments if fragment not in str(raised.value)] == []


def test_without_a_launcher_no_barrier_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")

    with pytest.raises(BarrierConfigError, match="torchrun, srun or mpirun"):
        create_barrier("sample", barrier_prefix="ckpt")


@pytest.mark.usefixtures("globally")
@pytest.mark.parametrize("asked", ["tcp_store", "tcp_stroe"])
def test_a_known_backend_that_is_not_installed_is_an_error_with_the_command(asked: str) -> None:
    with pytest.raises(UnknownBarrierTypeError, match=r"pip install barrier-tcp-store$"):
        create_barrier(asked)


def test_an_installed_backend_that_is_broken_says_so(globally: Site) -> None:
    globally.install("barrier-broken", {"broken": "absent:Backend"})

    with pytest.raises(BarrierPluginError, match=r"of barrier-broken 1\.0 cannot be loaded"):
        create_barrier("broken")
