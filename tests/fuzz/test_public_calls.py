"""Whatever is given to a public call: it works, or raises a `BarrierError`.

One exception is Python's: a call with too many arguments, or with one of another name, is a
TypeError, as with any function. Arguments that are passed on to a backend's constructor are not.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

from barrier_core import (
    BARRIER_REGISTRY,
    BarrierConfig,
    BarrierError,
    RankInfo,
    create_barrier,
    create_barrier_from_config,
    register_barrier,
)
from barrier_core.backends.local import LocalBarrier
from barrier_core.discovery.arguments import bind_arguments, options_of
from barrier_core.launcher import generation_from_environment, job_id_from_environment
from barrier_core.secret import Secret
from barrier_dist_barrier import DistBarrier
from barrier_tcp_store import TCPStoreBarrier
from barrier_tcp_store.access import find_store
from tests.fuzz.anything import ANYTHING, SEEN, TEXT, fuzz, tried

VARIABLES = [
    "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE", "PMI_RANK", "PMI_SIZE", "PMI_JOBID", "SLURM_PROCID",
    "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT",
    "BARRIER_JOB_ID", "BARRIER_TYPE", "BARRIER_CONFIG", "BARRIER_ARG_TIMEOUT_SECS",
    "BARRIER_ARG_BARRIER_PREFIX", "BARRIER_ARG_", "BARRIER_ARG_PORT",
]  # fmt: skip
KNOWN = [option.name for option in options_of(LocalBarrier)]
ENVIRONMENTS = st.dictionaries(
    st.sampled_from(VARIABLES), TEXT | st.sampled_from(["0", "1", "2", "True", "local"]), max_size=8
)


def options(backend: type) -> st.SearchStrategy[dict[Any, Any]]:
    """Arguments for a backend, most of them of its own names."""
    names = st.sampled_from([option.name for option in options_of(backend)]) | TEXT | st.integers()
    return st.dictionaries(names, ANYTHING, max_size=4)


def use(barrier: Any) -> None:
    """Go through a barrier that could be made, where nobody else has to come; and close it."""
    if barrier is not None:
        if barrier.rank_info.global_world_size == 1:
            tried(barrier.execute_barrier)
        tried(barrier.close)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    assert all(name.endswith("Error") for name in SEEN)


@fuzz(options(LocalBarrier), st.booleans())
def test_making_a_barrier_by_name(arguments: dict[Any, Any], alone: bool) -> None:
    rank = {"global_rank": 0, "global_world_size": 1} if alone else {}
    use(tried(create_barrier_from_config, BarrierConfig("local", {**rank, **arguments})))


@fuzz(options(LocalBarrier).map(lambda given: {k: v for k, v in given.items() if k in KNOWN}))
def test_making_a_barrier_by_its_class(arguments: dict[str, Any]) -> None:
    use(tried(LocalBarrier, **{"global_rank": 0, "global_world_size": 1, **arguments}))


@fuzz(options(TCPStoreBarrier), options(DistBarrier))
def test_arguments_of_other_backends(tcp: dict[Any, Any], dist: dict[Any, Any]) -> None:
    tried(bind_arguments, TCPStoreBarrier, tcp, RankInfo(0, 1))
    tried(bind_arguments, DistBarrier, dist, RankInfo(0, 1))


@fuzz(ANYTHING, ANYTHING, ANYTHING | st.integers(0, 70_000))
def test_where_a_store_is(store: Any, address: Any, port: Any) -> None:
    tried(find_store, store, address, port)
    tried(find_store, None, address, port)
    tried(find_store, None, "localhost", port)


@fuzz(ANYTHING, ANYTHING, ANYTHING)
def test_names_of_barriers_and_configs(name: Any, arguments: Any, rank_info: Any) -> None:
    use(tried(create_barrier, name, rank_info=rank_info))
    use(tried(create_barrier_from_config, BarrierConfig(name, arguments)))
    use(tried(create_barrier_from_config, name))
    repr(BarrierConfig(name, arguments))
    tried(register_barrier, name)
    tried(RankInfo, name, arguments)
    tried(Secret.of, "password", name)
    if isinstance(name, str | int) and name not in BARRIER_REGISTRY:
        with pytest.raises(KeyError):
            BARRIER_REGISTRY[name]  # type: ignore[index]


@fuzz(ENVIRONMENTS)
def test_environments(environ: dict[str, str]) -> None:
    tried(RankInfo.from_environment, environ)
    tried(generation_from_environment, environ)
    tried(job_id_from_environment, environ)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            if "\0" not in value:  # the system has no way to hold one
                try:
                    patch.setenv(name, value)
                except UnicodeEncodeError:  # nor half a surrogate, but for those of undecoded bytes
                    continue
        tried(find_store, None, None, 29511)
        config = tried(BarrierConfig.from_environment)
        if config is not None and config.barrier_type == "local":
            use(tried(create_barrier_from_config, config))


@fuzz(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(
                st.sampled_from(["barrier", "barrier_type", "barrier_args", "x"]), each, max_size=3
            )
        ),
    ).map(lambda tree: json.dumps(tree).encode()),
    st.sampled_from([".toml", ".json", ".yaml", ""]),
)
def test_config_files(tmp_path_factory: pytest.TempPathFactory, content: bytes, end: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"config{end}"
    path.write_bytes(content)
    config = tried(BarrierConfig.from_file, path)
    if config is not None:
        use(tried(create_barrier_from_config, config))


@fuzz(ANYTHING)
def test_paths_of_config_files(path: Any) -> None:
    tried(BarrierConfig.from_file, path)


CALLS: dict[str, Callable[..., object]] = {
    "execute": lambda barrier, one, two: barrier.execute_barrier(one, two),
    "abort": lambda barrier, one, two: barrier.abort(one, round=two),
    "progress": lambda barrier, one, two: barrier.report_progress(one),
    "gather": lambda barrier, one, two: barrier.gather(one, tag=two),
    "close": lambda barrier, one, two: barrier.close(),
    "copy": lambda barrier, one, two: copy.copy(barrier),
    "deepcopy": lambda barrier, one, two: copy.deepcopy(barrier),
    "pickle": lambda barrier, one, two: pickle.dumps(barrier),
}


class OwnError(Exception):
    """The user's own."""


@fuzz(st.lists(st.tuples(st.sampled_from([*CALLS, "phase", "leave"]), ANYTHING, ANYTHING)))
def test_calls_of_a_barrier(calls: list[tuple[str, Any, Any]]) -> None:
    barrier = LocalBarrier(0, 1, "fuzz")
    try:
        for name, one, two in calls:
            if name == "phase":
                with pytest.raises((OwnError, BarrierError)), barrier.phase(one):
                    raise OwnError(two)
            elif name == "leave":
                with pytest.raises(OwnError), barrier:
                    raise OwnError(one)
            else:
                tried(CALLS[name], barrier, one, two)
    finally:
        barrier.close()
