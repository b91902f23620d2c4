"""The ``dist_barrier`` barrier: over a torch.distributed process group."""

from barrier_dist_barrier.barrier import DistBarrier

__all__ = ["DistBarrier"]
