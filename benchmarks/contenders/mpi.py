"""``MPI_Barrier`` of MPICH, through mpi4py.

MPI wants to start its processes itself. So rank 0 runs ``mpiexec`` with ``benchmarks/mpi_ranks.py``
and tells it when to run a block; while the other contenders run, these processes sleep.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.contender import Contender, Cost

_PROGRAM = Path(__file__).parents[1] / "mpi_ranks.py"


class MPIContender(Contender):
    """Shared memory on one host: what it shows is how far from it the sockets are."""

    title = "MPICH (shared memory)"
    needs = ("mpi4py",)
    has_network = False

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        mpiexec = _mpiexec()
        self._job: subprocess.Popen[str] | None = None
        if rank == 0 and mpiexec is not None:
            self._job = subprocess.Popen(
                [mpiexec, "-n", str(world_size), sys.executable, str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.run(1)  # returns once all of them are up

    @classmethod
    def obstacle(cls) -> str | None:
        return super().obstacle() or ("no mpiexec found" if _mpiexec() is None else None)

    @classmethod
    def serve(cls, world_size: int) -> int:
        return 0

    def wait(self) -> None:
        self.run(1)

    def run(self, rounds: int) -> Cost:
        if self._job is None:
            return Cost(0.0, 0.0)
        assert self._job.stdin is not None
        assert self._job.stdout is not None
        self._job.stdin.write(f"{rounds}\n")
        self._job.stdin.flush()
        answer = self._job.stdout.readline()
        if not answer:
            raise RuntimeError(f"mpiexec ended with code {self._job.wait()}")
        return Cost(float(answer), 0.0)  # the CPU time is that of other processes

    def leave(self) -> None:
        if self._job is not None:
            self._job.communicate()


def _mpiexec() -> str | None:
    scripts = sysconfig.get_path("scripts")
    return shutil.which("mpiexec", path=scripts) or shutil.which("mpiexec")


CONTENDER = MPIContender
