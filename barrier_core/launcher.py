"""Who this process is in the job: what the launcher says in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from barrier_core.errors import BarrierConfigError
from barrier_core.shown import shown
from barrier_core.this_process import boot_id, host_name, namespace_id

JOB_ID_VARIABLE = "BARRIER_JOB_ID"
_LONGEST_NAME = 500  # bytes, as for the names that are arguments
LARGEST_WORLD_SIZE = 2**18
"""A rank that finds out who is missing reads and keeps something of each rank."""


def _torchrun_job(environ: Mapping[str, str]) -> str | None:
    run = environ.get("TORCHELASTIC_RUN_ID")
    # "none" is torchrun's default, the same for every job.
    return f"torchrun-{run}" if run and run != "none" else None


def _open_mpi_job(environ: Mapping[str, str]) -> str | None:
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid")
    return f"mpi-{job}" if job else None


def _pmi_job(environ: Mapping[str, str]) -> str | None:
    if environ.get("PMI_JOBID"):
        return f"pmi-{environ['PMI_JOBID']}"
    # MPICH's own mpiexec sets nothing that two jobs would not share. Where it has started all ranks
    # on this host, they have one ancestor: the process of it that has started them.
    on_one_host = environ.get("MPI_LOCALNRANKS") == environ.get("PMI_SIZE")
    return _first_ancestor_without("PMI_RANK") if on_one_host else None


def _slurm_job(environ: Mapping[str, str]) -> str | None:
    # Both, as a batch script is in no step, and starts any number of jobs.
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    return f"slurm-{job}.{step}" if job and step else None


class _Launcher(NamedTuple):
    """The environment variables in which one launcher says who a process is."""

    name: str
    rank: str
    world_size: str
    job_id: Callable[[Mapping[str, str]], str | None]
    """Returns what all ranks of one start have in common, and no two starts; None if unknown."""


# In order of precedence: torchrun started by srun or mpirun sees the variables of both, and the
# innermost launcher is the one that started this process.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", _torchrun_job),
    _Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", _open_mpi_job),
    _Launcher("MPICH/PMI", "PMI_RANK", "PMI_SIZE", _pmi_job),
    # The size of the step, not of the allocation: inside one job, srun may start fewer tasks.
    _Launcher("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", _slurm_job),
    _Launcher("Slurm", "SLURM_PROCID", "SLURM_NTASKS", _slurm_job),
)


@dataclass(frozen=True)
class RankInfo:
    """Who one process is in the job.

    Raises:
        BarrierConfigError: The rank is not in ``[0, global_world_size)``, or the world size is
            less than one or greater than 2**18.
    """

    global_rank: int
    global_world_size: int
    generation: str = "0"
    """Changes whenever the launcher restarts the whole job."""
    job_id: str | None = None
    """What tells this job from others, where the launcher says it."""
    host: str = field(default_factory=host_name)
    pid: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        rank, size = self.global_rank, self.global_world_size
        for name, value in (("global_rank", rank), ("global_world_size", size)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise BarrierConfigError(f"{name}={shown(value)} must be a whole number")
        if not 1 <= size <= LARGEST_WORLD_SIZE:
            raise BarrierConfigError(
                f"global_world_size={shown(size)} must be at least 1, and at most "
                f"{LARGEST_WORLD_SIZE}"
            )
        if not 0 <= rank < size:
            raise BarrierConfigError(
                f"global_rank={shown(rank)} must be between 0 and {size - 1} "
                f"(global_world_size={size})"
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
            except (TypeError, ValueError):
                raise BarrierConfigError(
                    f"{name}={shown(environ[name])} in the environment is not a whole number; "
                    f"{launcher.name} sets it to one"
                ) from None

        rank, world_size = read(launcher.rank), read(launcher.world_size)
        try:
            return cls(
                rank,
                world_size,
                generation=generation_from_environment(environ),
                job_id=job_id_from_environment(environ),
            )
        except BarrierConfigError as error:
            raise BarrierConfigError(
                f"{launcher.name}'s environment variables contradict each other "
                f"({launcher.rank}={shown(rank)}, {launcher.world_size}={shown(world_size)}): "
                f"{error}"
            ) from None


def generation_from_environment(environ: Mapping[str, str] | None = None) -> str:
    """Return how often the launcher (torchrun or Slurm) has restarted the job; "0" if never."""
    environ = os.environ if environ is None else environ
    for variable in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        if environ.get(variable):
            return _usable(variable, environ[variable])
    return "0"


def job_id_from_environment(environ: Mapping[str, str] | None = None) -> str | None:
    """Return what tells this job from every other: ``BARRIER_JOB_ID``, or the launcher's own id.

    All ranks of a job must get the same. So only those launchers are asked that have counted as
    many processes as the innermost one: others have started something else. That is one job where
    ``RANK`` and ``WORLD_SIZE`` are copied from Slurm's variables, and none where torchrun runs in
    a Slurm step of another size.

    Returns:
        None where nothing is known that all ranks share and other jobs do not.
    """
    environ = os.environ if environ is None else environ
    if environ.get(JOB_ID_VARIABLE):
        return _usable(JOB_ID_VARIABLE, environ[JOB_ID_VARIABLE])
    world_size: str | None = None
    for launcher in _LAUNCHERS:
        if launcher.rank in environ and launcher.world_size in environ:
            world_size = world_size or environ[launcher.world_size]
            job_id = launcher.job_id(environ)
            if job_id is not None and environ[launcher.world_size] == world_size:
                return _usable(f"{launcher.name}'s job id", job_id)
    return None


def _usable(what: str, name: str) -> str:
    """Return a name from the environment if it can be part of a key."""
    try:
        if len(name.encode()) <= _LONGEST_NAME:
            return name
    except (AttributeError, UnicodeEncodeError):  # no text, or one that is not in UTF-8
        pass
    raise BarrierConfigError(
        f"{what}={shown(name)} in the environment must be a text of at most {_LONGEST_NAME} bytes "
        "in UTF-8"
    )


def _first_ancestor_without(variable: str) -> str | None:
    """Name the nearest ancestor of this process that has no such environment variable.

    Returns:
        What names that process on all hosts and for all time. None where there is none, as at the
        first process of a container, or where it may not be looked at.
    """
    pid = os.getpid()
    try:
        while True:
            pid = int(_stat(pid)[1])
            names = (Path(f"/proc/{pid}/environ").read_bytes()).split(b"\0")
            if pid <= 1:
                return None
            if not any(name.startswith(f"{variable}=".encode()) for name in names):
                return f"mpiexec-{boot_id()}/{namespace_id('pid')}/{pid}/{_stat(pid)[19]}"
    except (OSError, IndexError, ValueError):
        return None


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/pid/stat`` after the process's name, which may have blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
