"""Who this process is in the job: what the launcher says in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from barrier_core.errors import BarrierConfigError
from barrier_core.this_process import host_name


class _Launcher(NamedTuple):
    """The environment variables in which one launcher says who a process is."""

    name: str
    rank: str
    world_size: str


# In order of precedence: torchrun started by srun or mpirun sees the variables of both, and the
# innermost launcher is the one that started this process.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE"),
    _Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    _Launcher("MPICH/PMI", "PMI_RANK", "PMI_SIZE"),
    # The size of the step, not of the allocation: inside one job, srun may start fewer tasks.
    _Launcher("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    _Launcher("Slurm", "SLURM_PROCID", "SLURM_NTASKS"),
)


@dataclass(frozen=True)
class RankInfo:
    """Who one process is in the job.

    Raises:
        BarrierConfigError: The rank is not in ``[0, global_world_size)``, or the world size is
            less than one.
    """

    global_rank: int
    global_world_size: int
    generation: str = "0"
    """Changes whenever the launcher restarts the whole job."""
    host: str = field(default_factory=host_name)
    pid: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        rank, size = self.global_rank, self.global_world_size
        for name, value in (("global_rank", rank), ("global_world_size", size)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise BarrierConfigError(f"{name}={value!r} must be a whole number")
        if size < 1:
            raise BarrierConfigError(f"global_world_size={size} must be at least 1")
        if not 0 <= rank < size:
            raise BarrierConfigError(
                f"global_rank={rank} must be between 0 and {size - 1} (global_world_size={size})"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RankInfo:
        """Read rank and world size from torchrun's, Open MPI's, MPICH/PMI's or Slurm's variables.

        Raises:
            BarrierConfigError: No launcher's variables are set, only some of them are, or their
                values cannot be right. A guess (such as "alone in the world") would let every
                rank pass its barrier at once, so there is none.
        """
        environ = os.environ if environ is None else environ
        incomplete: list[str] = []
        for launcher in _LAUNCHERS:
            found = [name in environ for name in (launcher.rank, launcher.world_size)]
            if all(found):
                return cls._from_launcher(launcher, environ)
            # Slurm sets SLURM_NTASKS for the batch script too; a size alone says nothing.
            if found[0]:
                incomplete.append(f"{launcher.rank} is set, but {launcher.world_size} is not")
        raise BarrierConfigError(
            "cannot tell this process's rank and world size from the environment "
            f"({incomplete[0] if incomplete else 'no launcher has set its variables'}). Start it "
            "with torchrun, srun or mpirun, set RANK and WORLD_SIZE, or pass global_rank and "
            "global_world_size"
        )

    @classmethod
    def _from_launcher(cls, launcher: _Launcher, environ: Mapping[str, str]) -> RankInfo:
        def read(name: str) -> int:
            try:
                return int(environ[name])
            except ValueError:
                raise BarrierConfigError(
                    f"{name}={environ[name]!r} in the environment is not a whole number; "
                    f"{launcher.name} sets it to one"
                ) from None

        rank, world_size = read(launcher.rank), read(launcher.world_size)
        try:
            return cls(rank, world_size, generation=generation_from_environment(environ))
        except BarrierConfigError as error:
            raise BarrierConfigError(
                f"{launcher.name}'s environment variables contradict each other "
                f"({launcher.rank}={environ[launcher.rank]}, "
                f"{launcher.world_size}={environ[launcher.world_size]}): {error}"
            ) from None


def generation_from_environment(environ: Mapping[str, str] | None = None) -> str:
    """Return how often the launcher (torchrun or Slurm) has restarted the job; "0" if never."""
    environ = os.environ if environ is None else environ
    for variable in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        if environ.get(variable):
            return environ[variable]
    return "0"
