"""What tests need that have real ranks meet through torch.

A process needs two seconds and 220 MB for its torch, so the tests share four. Each test starts
from nothing all the same: the functions that it sends make process groups and stores, and take
them down.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from barrier_core.testing.rank_processes import RankProcesses

WORLD_SIZE = 4


@functools.cache
def _processes() -> RankProcesses:
    return RankProcesses(WORLD_SIZE, timeout_secs=60)


def shared_ranks() -> RankProcesses:
    """Return the ranks that the tests share, all of them idle."""
    processes = _processes()
    processes.refresh()
    return processes


@contextmanager
def gloo_group(rank: int, rendezvous: Path, world_size: int = WORLD_SIZE) -> Iterator[None]:
    """Be a rank of a process group, which no rank leaves before the others have.

    Args:
        rank: This process's rank.
        rendezvous: A file that does not exist, the same on every rank.
        world_size: Number of ranks.
    """
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]  # it is public

    limit = timedelta(seconds=30)
    store = FileStore(str(rendezvous), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        yield
    finally:
        store.set(f"done {rank}", "")
        store.wait([f"done {other}" for other in range(world_size)], limit)
        dist.destroy_process_group()


def assert_held(rounds_by_rank: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Check that no rank left a round before every rank had entered it.

    Args:
        rounds_by_rank: For each rank, when it entered and left each round, in monotonic time.
    """
    for number, visits in enumerate(zip(*rounds_by_rank, strict=True), 1):
        last_to_enter = max(entered for entered, _ in visits)
        first_to_leave = min(left for _, left in visits)
        assert last_to_enter <= first_to_leave, f"round {number} let a rank pass early: {visits}"
