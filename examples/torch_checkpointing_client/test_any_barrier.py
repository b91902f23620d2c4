from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from barrier_core import BarrierConfig, BarrierConfigError, BarrierTimeoutError
from barrier_core.testing.rank_processes import RankProcesses
from tests.support.ports import free_port
from tests.support.torch_ranks import WORLD_SIZE, gloo_group

ROOT = Path(__file__).parents[2]
SHORT_SECS = 1


def arguments_of(barrier_type: str) -> dict[str, Any]:
    """What the type needs where no torchrun is."""
    hosting = {"tcpstore_port": free_port(), "linger_secs": SHORT_SECS}
    return {"tcp_store": hosting}.get(barrier_type, {})


def make_saver(rank: int, config: BarrierConfig, timeout_secs: int, kind: str = "sync") -> Any:
    """Their saver, over our barrier."""
    from torch_checkpointing import builder
    from torch_checkpointing import config as configs
    from torch_checkpointing.checkpoint_writer import CheckpointWriterConfig
    from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig
    from torch_checkpointing.types import RankInfo

    from examples.torch_checkpointing_client.any_barrier import AnyBarrierConfig

    makers: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "sync": (builder.make_sync_checkpoint_saver, configs.SyncCheckpointSaverConfig),
        "async": (builder.make_async_checkpoint_saver, configs.AsyncCheckpointSaverConfig),
    }
    make, config_type = makers[kind]
    writer_config = CheckpointWriterConfig(
        barrier_config=AnyBarrierConfig(config),
        checkpoint_write_barrier_timeout_sec=timeout_secs,
    )
    assert writer_config.write_to_temp_dir
    return make(
        config_type(writer_config=writer_config),
        RankInfo(rank, WORLD_SIZE, role_rank=rank, role_world_size=WORLD_SIZE),
        storage_config=LocalFileSystemStorageConfig(use_direct_io=False),  # not on every filesystem
    )


def checkpoint_of(rank: int) -> Any:
    import torch
    from torch_checkpointing.checkpoint_base import CheckpointBase, CheckpointItem

    class Shard(CheckpointBase):
        def get_items(self) -> dict[str, CheckpointItem]:
            return {"model": CheckpointItem({"weight": torch.full((8,), float(rank))})}

        def load_state_dict(self, state_dict: Any) -> None:
            raise NotImplementedError

    return Shard()


def saves(
    rank: int, config: BarrierConfig, directory: Path, missing: int | None, timeout_secs: int
) -> str:
    """Save two checkpoints; one rank may stay away from the second."""
    import torch

    with gloo_group(rank, directory / "rendezvous"):
        saver = make_saver(rank, config, timeout_secs)
        saver.save(str(directory / "first"), checkpoint_of(rank))
        if rank == missing:
            return "stayed away"
        try:
            saver.save(str(directory / "second"), checkpoint_of(rank))
        except BarrierTimeoutError as error:
            return str(error)
        finally:
            saver._writer._barrier.close()  # theirs has no close; ours leaves
        loaded = torch.load(directory / "first" / f"model_{rank}.pt")
        return str(loaded["weight"].tolist())


@pytest.mark.parametrize("barrier_type", ["tcp_store", "dist_barrier"])
def test_four_ranks_commit_through_it(
    ranks: RankProcesses, tmp_path: Path, barrier_type: str
) -> None:
    config = BarrierConfig(barrier_type, arguments_of(barrier_type))
    loaded = ranks.run_all(saves, config, tmp_path, None, 30)
    assert loaded == [str([float(rank)] * 8) for rank in range(WORLD_SIZE)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["first", "second"]
    for name in ("first", "second"):
        shards = sorted(path.name for path in (tmp_path / name).glob("*.pt"))
        assert shards == [f"model_{rank}.pt" for rank in range(WORLD_SIZE)]


def saves_in_background(directory: Path) -> None:
    """Be a rank under torchrun that saves two checkpoints from a subprocess."""
    rank = int(os.environ["RANK"])
    # In torchrun's store, which a subprocess without a process group reaches as well.
    saver = make_saver(rank, BarrierConfig("tcp_store"), timeout_secs=30, kind="async")
    for name in ("first", "second"):
        _, written = saver.save(str(directory / name), checkpoint_of(rank))
        written.result(30)
    saver.close()


def test_the_barrier_works_in_the_subprocess_of_their_asynchronous_saver(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    job = [f"--nproc-per-node={WORLD_SIZE}", "-m", __name__, str(tmp_path)]
    done = subprocess.run(
        torchrun + job, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        assert len(list((tmp_path / name).glob("*.pt"))) == WORLD_SIZE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


@pytest.mark.parametrize("barrier_type", ["tcp_store", "dist_barrier"])
def test_their_limit_counts_and_nothing_is_committed_without_a_rank(
    ranks: RankProcesses, tmp_path: Path, barrier_type: str
) -> None:
    config = BarrierConfig(barrier_type, {"timeout_secs": 600, **arguments_of(barrier_type)})
    *messages, absent = ranks.run_all(saves, config, tmp_path, 3, SHORT_SECS)
    assert absent == "stayed away"
    assert re.search(r"1 of 4 ranks did not arrive: rank 3 \(", messages[0])
    assert all("round 2 timed out after" in message for message in messages)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "first",
        "tmp_second",
    ]


def makes_no_barrier(rank: int) -> str:
    with pytest.raises(BarrierConfigError) as caught:
        make_saver(rank, BarrierConfig(), SHORT_SECS)
    return str(caught.value)


def test_no_type_is_refused_since_they_would_commit_without_waiting(ranks: RankProcesses) -> None:
    assert "half a checkpoint" in ranks.run_all(makes_no_barrier)[0]


if __name__ == "__main__":
    saves_in_background(Path(sys.argv[1]))
