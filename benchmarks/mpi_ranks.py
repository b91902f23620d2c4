"""What ``mpiexec`` runs for the MPI contender: a block of rounds for every line of the input."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

_NAP_SECS = 0.01


def main() -> None:
    """Run blocks of as many rounds as each line says, until the input ends."""
    world: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    rounds = 1
    while rounds:
        if world.rank == 0:
            rounds = int(sys.stdin.readline() or 0)
            for rank in range(1, world.size):
                world.send(rounds, rank)
        else:
            # MPICH spins in every blocking call: while others are measured, this may not.
            while not world.iprobe(0):
                time.sleep(_NAP_SECS)
            rounds = world.recv(source=0)
        for _ in range(5 if rounds else 0):
            world.Barrier()
        started = time.perf_counter()
        for _ in range(rounds):
            world.Barrier()
        if rounds and world.rank == 0:
            print((time.perf_counter() - started) / rounds, flush=True)


if __name__ == "__main__":
    main()
