"""Train a small language model on several ranks; commit a sharded checkpoint every few steps.

torchrun --standalone --nproc-per-node=4 train.py DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint._experimental.checkpoint_reader import CheckpointReader
from torch.distributed.checkpoint._experimental.checkpoint_writer import (
    CheckpointWriter,
    CheckpointWriterConfig,
    WriterHook,
)
from torch.distributed.checkpoint._experimental.types import RankInfo as ShardOf
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from barrier_core import (
    Barrier,
    BarrierConfig,
    BarrierFailedError,
    Capability,
    create_barrier_from_config,
)

HERE = Path(__file__).parent
STEPS = 30
SAVE_EVERY = 10
CONTEXT = 16  # bytes that the model sees
BATCH = 64


class ShardedModel:
    """A model whose parameters every rank holds, and whose optimizer is split across the ranks.

    Each rank owns one part of the flat vector of parameters, and Adam's state for that part: its
    shard of the checkpoint.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.steps = rank, world_size, 0
        torch.manual_seed(0)  # the same start on every rank
        self.model = nn.Sequential(
            nn.Embedding(256, 32),
            nn.Flatten(),
            nn.Linear(CONTEXT * 32, 512),
            nn.ReLU(),
            nn.Linear(512, 256),
        )
        flat = parameters_to_vector(self.model.parameters()).detach()
        self.size = len(flat)
        # From here on the parameters are views of one vector, and so is each rank's part of it.
        flat = self._padded(flat)
        vector_to_parameters(flat, self.model.parameters())
        self.parts = list(flat.chunk(world_size))
        self.own = nn.Parameter(self.parts[rank].clone())
        self.optimizer = torch.optim.Adam([self.own], lr=2e-3)
        # Real text at hand: the model learns to go on with this very file.
        self.text = torch.tensor(list(Path(__file__).read_bytes()))
        self.chance = torch.Generator().manual_seed(rank)  # other examples on every rank

    def train_step(self) -> float:
        """Do one step together with the other ranks; return the mean loss."""
        starts = torch.randint(len(self.text) - CONTEXT, (BATCH,), generator=self.chance)
        seen = torch.stack([self.text[start : start + CONTEXT] for start in starts.tolist()])
        loss = nn.functional.cross_entropy(self.model(seen), self.text[starts + CONTEXT])
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = parameters_to_vector(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        )
        summed = self._padded(torch.cat([gradient, loss.detach().reshape(1)]))
        dist.all_reduce(summed)
        summed /= self.world_size
        self.own.grad = self._padded(summed[: self.size]).chunk(self.world_size)[self.rank]
        self.optimizer.step()
        dist.all_gather(self.parts, self.own.detach())
        self.steps += 1
        return float(summed[self.size])

    def shard(self) -> dict[str, Any]:
        """Return what this rank alone has to save."""
        return {
            "steps": self.steps,
            "parameters": self.own.detach(),
            "optimizer": self.optimizer.state_dict(),
        }

    def equals(self, path: Path) -> bool:
        """Whether a checkpoint holds, bit for bit, what this rank has in memory.

        Every rank reads every shard: it has all the parameters, and the whole of its own shard.
        """
        for owner, part in enumerate(self.parts):
            saved, _ = CheckpointReader(ShardOf(owner, self.world_size)).read(str(path))
            if not same_bits(saved["parameters"], part):
                return False
            if owner == self.rank and not same_bits(saved, self.shard()):
                return False
        return True

    def _padded(self, vector: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(vector, (0, -len(vector) % self.world_size))


def same_bits(one: Any, other: Any) -> bool:
    """Compare nested state; tensors by their bytes, to which -0.0 is not 0.0."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return bool(one == other)


class CommitByRename(WriterHook):
    """Publishes a checkpoint by one atomic rename, which rank 0 does after the barrier.

    The writer calls it on both sides of the barrier: `pre_commit` when this rank has written its
    shard, `post_commit` when every rank has.
    """

    def __init__(self, rank: int, barrier: Barrier) -> None:
        self.rank = rank
        self.barrier = barrier

    def pre_commit(self, path: str, **kwargs: Any) -> None:
        """Have this rank's shard on disk before it says so at the barrier."""
        with open(Path(path, f"checkpoint_{self.rank}.pt"), "rb") as shard:
            os.fsync(shard.fileno())
        report_progress(self.barrier, f"wrote its shard of {Path(path).name}")

    def post_commit(self, path: str, **kwargs: Any) -> None:
        """Give the complete checkpoint its name."""
        if self.rank == 0:
            os.rename(path, committed(Path(path)))


def temporary(directory: Path, step: int) -> Path:
    """Return where the checkpoint of a step is written."""
    return directory / f"tmp-step-{step}"


def committed(path: Path) -> Path:
    """Return what a temporary path is renamed to."""
    return path.with_name(path.name.removeprefix("tmp-"))


def report_progress(barrier: Barrier, progress: str) -> None:
    """Tell the others, where the backend can, what this rank does in case it is the late one."""
    if Capability.PROGRESS in barrier.capabilities:
        barrier.report_progress(progress)


def say(text: str) -> None:
    """Print a line in one piece, however many ranks share the terminal."""
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


def stop(rank: int, step: int) -> None:
    """Stop this process the hard way, as a debugger or a frozen host would."""
    say(f"rank {rank} stops (SIGSTOP) before it saves step {step}")
    time.sleep(1)  # by then its last progress has reached the others
    os.kill(os.getpid(), signal.SIGSTOP)


def train(model: ShardedModel, barrier: Barrier, directory: Path, stop_rank: int | None) -> None:
    """Train, and save every few steps; leave when a checkpoint cannot be committed."""
    writer = CheckpointWriter(
        CheckpointWriterConfig(),
        ShardOf(model.rank, model.world_size),
        barrier=barrier,  # type: ignore[arg-type]  # has the one method that the writer calls
        commit_hook=CommitByRename(model.rank, barrier),
    )
    loss = 0.0
    for step in range(1, STEPS + 1):
        loss = model.train_step()
        if step % SAVE_EVERY:
            continue
        report_progress(barrier, f"about to save step {step}")
        if model.rank == stop_rank and step == 2 * SAVE_EVERY:
            stop(model.rank, step)
        started = time.monotonic()
        path = temporary(directory, step)
        try:
            writer.write(str(path), model.shard())
            # Rank 0 has renamed it before it comes here, so that from now on everybody can read it.
            barrier.execute_barrier(tag=f"step {step} committed")
        except BarrierFailedError as error:
            secs = time.monotonic() - started
            say(f"rank {model.rank} raised {type(error).__name__} after {secs:.1f} s: {error}")
            raise SystemExit(1) from error
        took = time.monotonic() - started

        path = committed(path)
        equal = torch.tensor(int(model.equals(path)))
        dist.all_reduce(equal)
        if equal != model.world_size:
            raise SystemExit(f"{path} differs from what was saved")
        if model.rank == 0:
            size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
            say(
                f"{path.name}: loss {loss:.3f}, {model.world_size} shards, {size:.1f} MB, "
                f"committed in {took * 1000:.0f} ms, read back bit for bit by {equal} ranks"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the checkpoints go")
    parser.add_argument("--stop-rank", type=int, help="rank that stops dead before the second save")
    arguments = parser.parse_args()
    say(f"rank {os.environ['RANK']} is up (pid {os.getpid()})")

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    barrier = create_barrier_from_config(BarrierConfig.from_file(HERE / "barrier.toml"))
    if barrier is None:
        raise SystemExit("barrier.toml names no barrier_type: nothing would hold rank 0 back")
    with barrier:
        model = ShardedModel(rank, world_size)
        if rank == 0:
            say(f"{barrier.barrier_type}: {model.size:,} parameters on {world_size} ranks")
        train(model, barrier, arguments.directory, arguments.stop_rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
