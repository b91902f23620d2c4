"""What code written for torch's own barriers finds here: the same names, and the same meaning.

The rows are those of ``torch.distributed.checkpoint._experimental.barriers``, and one more: torch's
own classes work through our registry, and ours in torch's writer.
"""

from __future__ import annotations

import inspect
import time
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import barrier_core
from barrier_core import (
    BARRIER_REGISTRY,
    Barrier,
    BarrierConfig,
    create_barrier_from_config,
    register_barrier,
)
from barrier_core.discovery.registry import registry
from barrier_core.testing.rank_processes import RankProcesses
from tests.support.ports import free_port
from tests.support.torch_ranks import (
    WORLD_SIZE,
    assert_held,
    gloo_group,
    shared_ranks,
)

NAMES = (
    "BARRIER_REGISTRY",
    "Barrier",
    "BarrierConfig",
    "DistBarrier",
    "TCPStoreBarrier",
    "create_barrier_from_config",
    "register_barrier",
)
EIGHT_PARAMETERS = [
    "global_rank",
    "global_world_size",
    "barrier_prefix",
    "timeout_barrier_init_secs",
    "use_checkpoint_barrier_tcpstore_libuv",
    "tcpstore_port",
    "master_address",
    "timeout_secs",
]


@pytest.fixture
def ranks() -> RankProcesses:
    """Four real ranks."""
    return shared_ranks()


# The names


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there(name: str) -> None:
    assert getattr(barrier_core, name) is not None


def names_of_torch(rank: int) -> list[str]:
    from torch.distributed.checkpoint._experimental import barriers

    public = [name for name, value in vars(barriers).items() if _is_own(value, barriers.__name__)]
    return sorted([*public, "BARRIER_REGISTRY"])


def _is_own(value: object, module: str) -> bool:
    return getattr(value, "__module__", None) == module


def test_no_name_of_torch_is_left_out(ranks: RankProcesses) -> None:
    assert ranks.run_all(names_of_torch)[0] == sorted(NAMES)


# The registry


class OldStyleBarrier:
    """Written for torch's contract, of which it has what callers use."""

    barrier_type = "old_style"

    def __init__(self, global_rank: int = 0, note: str = "") -> None:
        self.global_rank, self.note = global_rank, note

    def execute_barrier(self) -> None:
        """Pass at once."""


REGISTRY_ROWS: dict[str, Callable[[], bool]] = {
    "it is a mapping": lambda: isinstance(BARRIER_REGISTRY, Mapping),
    "it has both backends": lambda: {"dist_barrier", "tcp_store"} <= set(BARRIER_REGISTRY),
    "it gives the classes": lambda: (
        BARRIER_REGISTRY["tcp_store"] is barrier_core.TCPStoreBarrier
        and BARRIER_REGISTRY["dist_barrier"] is barrier_core.DistBarrier
    ),
    "the classes tell their names": lambda: all(
        getattr(backend, "barrier_type", None) == name for name, backend in BARRIER_REGISTRY.items()
    ),
    "`in` and keys() work": lambda: (
        "tcp_store" in BARRIER_REGISTRY
        and "tcp" not in BARRIER_REGISTRY
        and "tcp_store" in list(BARRIER_REGISTRY.keys())
    ),
    "get() has a default": lambda: BARRIER_REGISTRY.get("tcp") is None,
    "it cannot be written to": lambda: not hasattr(BARRIER_REGISTRY, "__setitem__"),
}


@pytest.mark.parametrize("row", REGISTRY_ROWS)
def test_the_registry(row: str) -> None:
    assert REGISTRY_ROWS[row]()


def test_a_registered_class_is_returned_found_and_made() -> None:
    try:
        assert register_barrier(OldStyleBarrier) is OldStyleBarrier
        assert BARRIER_REGISTRY["old_style"] is OldStyleBarrier
        config = BarrierConfig("old_style", {"global_rank": 1, "note": "kept"})
        made = create_barrier_from_config(config)
        assert isinstance(made, OldStyleBarrier)
        assert (made.global_rank, made.note) == (1, "kept")
    finally:
        registry.unregister("old_style")
    assert "old_style" not in BARRIER_REGISTRY


# The configuration


@pytest.mark.parametrize(
    ("config", "barrier_type", "barrier_args"),
    [
        pytest.param(BarrierConfig(), None, {}, id="nothing"),
        pytest.param(BarrierConfig("tcp_store"), "tcp_store", {}, id="type"),
        pytest.param(BarrierConfig("x", {"a": 1}), "x", {"a": 1}, id="positional"),
        pytest.param(
            BarrierConfig(barrier_type="x", barrier_args={"a": 1}), "x", {"a": 1}, id="keyword"
        ),
        pytest.param(BarrierConfig(barrier_args={"a": 1}), None, {"a": 1}, id="arguments alone"),
    ],
)
def test_the_configuration(
    config: BarrierConfig, barrier_type: str | None, barrier_args: dict[str, Any]
) -> None:
    assert is_dataclass(config)
    assert (config.barrier_type, config.barrier_args) == (barrier_type, barrier_args)
    assert config == BarrierConfig(barrier_type, barrier_args)


def test_no_two_configurations_share_their_arguments() -> None:
    BarrierConfig().barrier_args["a"] = 1
    assert BarrierConfig().barrier_args == {}


def test_no_type_makes_no_barrier() -> None:
    assert create_barrier_from_config(BarrierConfig()) is None


def test_an_unknown_type_is_a_value_error_with_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match="Unknown barrier type: 'token_ring'") as caught:
        create_barrier_from_config(BarrierConfig("token_ring"))
    for name in BARRIER_REGISTRY:
        assert repr(name) in str(caught.value)


# The classes


def test_barrier_is_the_abstract_base() -> None:
    assert issubclass(Barrier, ABC)
    assert callable(Barrier.execute_barrier)
    with pytest.raises(TypeError, match="abstract"):
        Barrier(0, 1)  # type: ignore[abstract]
    assert issubclass(barrier_core.TCPStoreBarrier, Barrier)
    assert issubclass(barrier_core.DistBarrier, Barrier)


def test_tcp_store_keeps_the_eight_parameters_in_their_order() -> None:
    parameters = inspect.signature(barrier_core.TCPStoreBarrier).parameters
    assert list(parameters)[:8] == EIGHT_PARAMETERS


def eight_parameters_of_torch(rank: int) -> list[str]:
    from torch.distributed.checkpoint._experimental.barriers import TCPStoreBarrier

    return list(inspect.signature(TCPStoreBarrier).parameters)


def test_torch_has_the_same_eight(ranks: RankProcesses) -> None:
    assert ranks.run_all(eight_parameters_of_torch)[0] == EIGHT_PARAMETERS


def dist_barrier_without_group(rank: int) -> str:
    with pytest.raises(AssertionError, match="requires an initialized process group") as caught:
        barrier_core.DistBarrier()  # type: ignore[call-arg]
    return str(caught.value)


def test_dist_barrier_without_a_process_group_is_an_assertion_error(ranks: RankProcesses) -> None:
    assert all(ranks.run_all(dist_barrier_without_group))


# Barriers among real ranks, ours and torch's own


class Job(NamedTuple):
    """What a rank needs to make its barrier."""

    rank: int
    port: int

    @property
    def eight(self) -> dict[str, Any]:
        """Arguments under the eight names."""
        values = (self.rank, WORLD_SIZE, "seed", 30, False, self.port, "127.0.0.1", 30)
        return dict(zip(EIGHT_PARAMETERS, values, strict=True))

    @property
    def six(self) -> dict[str, Any]:
        """The same, but rank and world size are for somebody else to fill in."""
        return dict(list(self.eight.items())[2:])


def from_config(barrier_type: str, args: dict[str, Any], rank: int) -> Any:
    """Make a barrier by name; its rank and world size come from the launcher's environment."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RANK", str(rank))
        environment.setenv("WORLD_SIZE", str(WORLD_SIZE))
        return create_barrier_from_config(BarrierConfig(barrier_type, args))


def torchs_own(class_name: str, args: dict[str, Any], rank: int) -> Any:
    """Register a class of torch, under another name than our plugin's, and make it by that name."""
    from torch.distributed.checkpoint._experimental import barriers

    theirs = getattr(barriers, class_name)
    name = f"torch_{theirs.barrier_type}"
    register_barrier(theirs, name=name)
    barrier = from_config(name, args, rank)
    assert type(barrier) is theirs
    return barrier


BARRIERS: dict[str, Callable[[Job], Any]] = {
    "our TCPStoreBarrier, positional": lambda job: barrier_core.TCPStoreBarrier(
        *job.eight.values()
    ),
    "our TCPStoreBarrier, keywords": lambda job: barrier_core.TCPStoreBarrier(**job.eight),
    "our tcp_store, from config": lambda job: from_config("tcp_store", job.eight, job.rank),
    "our tcp_store, ranks filled in": lambda job: from_config("tcp_store", job.six, job.rank),
    "our DistBarrier": lambda job: barrier_core.DistBarrier(),  # type: ignore[call-arg]
    "our dist_barrier, from config": lambda job: from_config("dist_barrier", {}, job.rank),
    "torch's TCPStoreBarrier": lambda job: torchs_own("TCPStoreBarrier", job.eight, job.rank),
    "torch's TCPStoreBarrier, ranks filled in": lambda job: torchs_own(
        "TCPStoreBarrier", job.six, job.rank
    ),
    "torch's DistBarrier": lambda job: torchs_own("DistBarrier", {}, job.rank),
}


def goes_through_rounds(
    rank: int, how: str, port: int, rendezvous: Path
) -> list[tuple[float, float]]:
    visits = []
    with gloo_group(rank, rendezvous):
        barrier = BARRIERS[how](Job(rank, port))
        for number in range(8):
            if rank == number % WORLD_SIZE:
                time.sleep(0.03)  # somebody is late in every round
            entered = time.monotonic()
            barrier.execute_barrier()
            visits.append((entered, time.monotonic()))
        if isinstance(barrier, Barrier):
            barrier.close()
            # Rank 0 hosts the store and leaves last, but waits for nobody who has left.
            assert time.monotonic() - visits[-1][1] < 10
    return visits


@pytest.mark.parametrize("how", BARRIERS)
def test_no_rank_passes_early(ranks: RankProcesses, tmp_path: Path, how: str) -> None:
    assert_held(ranks.run_all(goes_through_rounds, how, free_port(), tmp_path / "rendezvous"))


def writes_checkpoint(rank: int, how: str, port: int, directory: Path) -> tuple[list[str], bool]:
    """Save with torch's writer; return the shards that were there once the barrier had passed."""
    import torch
    from torch.distributed.checkpoint._experimental.checkpoint_reader import CheckpointReader
    from torch.distributed.checkpoint._experimental.checkpoint_writer import (
        CheckpointWriter,
        CheckpointWriterConfig,
    )
    from torch.distributed.checkpoint._experimental.types import RankInfo

    here = RankInfo(rank, WORLD_SIZE)
    state = {"weight": torch.full((1000 * rank + 1,), float(rank))}
    with gloo_group(rank, directory / "rendezvous"):
        barrier = BARRIERS[how](Job(rank, port))
        path = directory / "checkpoint"
        CheckpointWriter(CheckpointWriterConfig(), here, barrier=barrier).write(str(path), state)
        shards = sorted(shard.name for shard in path.iterdir())
        loaded, missing = CheckpointReader(here).read(str(path))
        if isinstance(barrier, Barrier):
            barrier.close()
    return shards, missing == [] and torch.equal(loaded["weight"], state["weight"])


@pytest.mark.parametrize("how", BARRIERS)
def test_it_serves_torchs_own_writer(ranks: RankProcesses, tmp_path: Path, how: str) -> None:
    for shards, equal in ranks.run_all(writes_checkpoint, how, free_port(), tmp_path):
        assert shards == [f"checkpoint_{rank}.pt" for rank in range(WORLD_SIZE)]
        assert equal
