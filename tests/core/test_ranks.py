"""Who this process is, read from what the launcher has set; and how ranks are written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barrier_core import BarrierConfigError, RankInfo
from barrier_core.launcher import generation_from_environment, job_id_from_environment
from barrier_core.verdict import format_ranks

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8"}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "16"}


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param(OPEN_MPI, id="Open MPI"),
        pytest.param(MPICH, id="MPICH"),
        pytest.param(SLURM, id="Slurm"),
    ],
)
def test_rank_and_world_size_come_from_the_launcher(environ: dict[str, str]) -> None:
    info = RankInfo.from_environment(environ)

    assert (info.global_rank, info.global_world_size) == (5, 8)
    assert (info.host, info.pid) == (socket.gethostname(), os.getpid())


def test_they_are_read_from_this_process_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)

    assert RankInfo.from_environment().global_rank == 5


def test_the_innermost_launcher_counts() -> None:
    outer = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "PMI_RANK": "0", "PMI_SIZE": "2"}

    assert RankInfo.from_environment({**outer, **TORCHRUN}).global_rank == 5


def test_a_launcher_that_says_only_half_is_passed_over_for_one_that_says_all() -> None:
    assert RankInfo.from_environment({"RANK": "7", **OPEN_MPI}).global_rank == 5


def test_slurm_without_a_step_size_gives_the_size_of_the_job() -> None:
    assert RankInfo.from_environment({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}) == RankInfo(3, 4)


UNUSABLE = {
    "no launcher": ({}, ["no launcher", "torchrun, srun or mpirun", "pass global_rank"]),
    "a batch script of Slurm": ({"SLURM_NTASKS": "4"}, ["no launcher"]),
    "torchrun: no world size": ({"RANK": "0"}, ["RANK is set, but WORLD_SIZE is not"]),
    "Open MPI: no world size": (
        {"OMPI_COMM_WORLD_RANK": "0"},
        ["OMPI_COMM_WORLD_RANK is set, but OMPI_COMM_WORLD_SIZE is not"],
    ),
    "MPICH: no world size": ({"PMI_RANK": "0"}, ["PMI_RANK is set, but PMI_SIZE is not"]),
    "Slurm: no world size": ({"SLURM_PROCID": "0"}, ["SLURM_PROCID is set, but SLURM_STEP_NUM"]),
    "torchrun: rank beyond the world": (
        {"RANK": "8", "WORLD_SIZE": "8"},
        ["torchrun", "RANK=8, WORLD_SIZE=8", "global_rank=8 must be between 0 and 7"],
    ),
    "torchrun: negative rank": (
        {"RANK": "-1", "WORLD_SIZE": "8"},
        ["torchrun", "RANK=-1", "global_rank=-1 must be between 0 and 7"],
    ),
    "torchrun: rank is no number": (
        {"RANK": "abc", "WORLD_SIZE": "8"},
        ["RANK='abc'", "not a whole number", "torchrun"],
    ),
    "torchrun: rank is empty": ({"RANK": "", "WORLD_SIZE": "8"}, ["RANK=''", "not a whole number"]),
    "torchrun: world size 0": (
        {"RANK": "0", "WORLD_SIZE": "0"},
        ["torchrun", "WORLD_SIZE=0", "global_world_size=0 must be at least 1"],
    ),
    "Open MPI: rank beyond the world": (
        {**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "9"},
        ["Open MPI", "OMPI_COMM_WORLD_RANK=9", "between 0 and 7"],
    ),
    "MPICH: rank beyond the world": (
        {**MPICH, "PMI_RANK": "9"},
        ["MPICH/PMI", "PMI_RANK=9, PMI_SIZE=8", "between 0 and 7"],
    ),
    "Slurm: rank beyond the step": (
        {**SLURM, "SLURM_PROCID": "8"},
        ["Slurm", "SLURM_PROCID=8, SLURM_STEP_NUM_TASKS=8", "between 0 and 7"],
    ),
    "Slurm: task count is no number": (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4(x2)"},
        ["SLURM_NTASKS='4(x2)'", "Slurm"],
    ),
}


@pytest.mark.parametrize(("environ", "fragments"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_environment_is_an_error_and_never_a_guess(
    environ: dict[str, str], fragments: list[str]
) -> None:
    with pytest.raises(BarrierConfigError) as raised:
        RankInfo.from_environment(environ)

    assert [fragment for fragment in fragments if fragment not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("rank", "world_size", "message"),
    [
        (4, 4, r"global_rank=4 must be between 0 and 3 \(global_world_size=4\)"),
        (-1, 4, "global_rank=-1 must be between 0 and 3"),
        (0, 0, "global_world_size=0 must be at least 1"),
        (0, -2, "global_world_size=-2 must be at least 1"),
        ("0", 4, "global_rank='0' must be a whole number"),
        (True, 4, "global_rank=True must be a whole number"),
        (0, 4.0, r"global_world_size=4\.0 must be a whole number"),
    ],
)
def test_a_place_that_cannot_be_is_refused(rank: int, world_size: int, message: str) -> None:
    with pytest.raises(BarrierConfigError, match=message):
        RankInfo(rank, world_size)


@pytest.mark.parametrize(
    ("environ", "generation"),
    [
        ({}, "0"),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, "0"),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, "2"),
        ({"SLURM_RESTART_COUNT": "1"}, "1"),
        ({"SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": "2"}, "2"),
        ({"SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": ""}, "1"),
    ],
)
def test_the_generation_is_how_often_the_launcher_has_restarted_the_job(
    environ: dict[str, str], generation: str
) -> None:
    assert generation_from_environment(environ) == generation
    assert RankInfo.from_environment({**TORCHRUN, **environ}).generation == generation


RUN_17 = {"TORCHELASTIC_RUN_ID": "17"}
STEP = {"SLURM_JOB_ID": "812", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environ", "job_id"),
    [
        ({}, None),
        (TORCHRUN, None),
        ({**TORCHRUN, **RUN_17}, "torchrun-17"),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, None),  # torchrun's default
        (OPEN_MPI, None),
        ({**OPEN_MPI, "PMIX_NAMESPACE": "prterun-a-7@1"}, "mpi-prterun-a-7@1"),
        ({**OPEN_MPI, "OMPI_MCA_ess_base_jobid": "3405"}, "mpi-3405"),
        (MPICH, None),
        ({**MPICH, "PMI_JOBID": "812.3"}, "pmi-812.3"),
        ({**MPICH, "MPI_LOCALNRANKS": "4"}, None),  # the ranks are on two hosts
        (SLURM, None),
        ({**SLURM, **STEP}, "slurm-812.0"),
        ({**SLURM, "SLURM_JOB_ID": "812"}, None),  # a batch script
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", **STEP}, "slurm-812.0"),
        ({**TORCHRUN, **RUN_17, **SLURM, **STEP}, "torchrun-17"),
        # RANK and WORLD_SIZE are copies of Slurm's.
        ({**TORCHRUN, **SLURM, **STEP}, "slurm-812.0"),
        # One of several jobs in a step, or one of several steps' ranks.
        ({**TORCHRUN, **SLURM, **STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}, None),
        # Variables of Slurm in the shell of an allocation, which not all ranks need have.
        ({**TORCHRUN, **STEP}, None),
        ({"BARRIER_JOB_ID": "mine"}, "mine"),
        ({**TORCHRUN, **RUN_17, **SLURM, **STEP, "BARRIER_JOB_ID": "mine"}, "mine"),
        ({**TORCHRUN, **RUN_17, "BARRIER_JOB_ID": ""}, "torchrun-17"),
    ],
)
def test_the_job_id_is_what_the_launcher_gives_to_all_ranks_of_one_start(
    environ: dict[str, str], job_id: str | None
) -> None:
    assert job_id_from_environment(environ) == job_id
    assert RankInfo.from_environment({**environ, **TORCHRUN}).job_id == job_id_from_environment(
        {**environ, **TORCHRUN}
    )


TELL_THE_JOB = [
    *(sys.executable, "-c"),
    "from barrier_core.launcher import job_id_from_environment as tell; print(tell(), flush=True)",
]
START_TWO_RANKS = """
import os, subprocess, sys
for rank, wrapper in enumerate([[], ["sh", "-c", '"$@"; true', "sh"]]):
    environ = {**os.environ, "PMI_RANK": str(rank), "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}
    subprocess.run([*wrapper, *sys.argv[1:]], env=environ)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc is read")
def test_ranks_of_mpichs_mpiexec_on_one_host_are_told_by_the_process_that_started_them() -> None:
    # As MPICH 4 and 5 do; one rank is started by a script.
    starter = [sys.executable, "-c", START_TWO_RANKS, *TELL_THE_JOB]
    jobs = [subprocess.check_output(starter, text=True).split() for _ in range(2)]

    (one, also_one), (two, also_two) = jobs
    assert one == also_one
    assert two == also_two
    assert one.startswith("mpiexec-")
    assert one != two


@pytest.mark.parametrize(
    ("ranks", "written"),
    [
        ([], ""),
        ([3], "3"),
        ([4, 3], "3-4"),
        ([3, *range(17, 32)], "3, 17-31"),
        ([9, 7, 5, 7], "5, 7, 9"),
    ],
)
def test_ranks_are_written_as_ranges(ranks: list[int], written: str) -> None:
    assert format_ranks(ranks) == written


@given(st.lists(st.integers(min_value=0, max_value=200)))
def test_written_ranks_read_back_as_the_same_set(ranks: list[int]) -> None:
    ranges = [part.split("-") for part in format_ranks(ranks).split(", ") if part]

    read = [rank for ends in ranges for rank in range(int(ends[0]), int(ends[-1]) + 1)]

    assert read == sorted(set(ranks))
    # No two ranges could have been one.
    assert all(int(left[-1]) + 1 < int(right[0]) for left, right in pairwise(ranges))
