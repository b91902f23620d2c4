"""Two jobs on one host or one store, with all defaults: neither meets the ranks of the other."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

from barrier_core import create_barrier
from barrier_core.errors import BarrierSetupError, RankConflictError
from barrier_core.testing.rank_processes import RankProcesses, state
from barrier_tcp_store import TCPStoreBarrier
from barrier_tcp_store.access import default_port
from plugins.tcp_store.tests.conftest import NewJob
from plugins.tcp_store.tests.looking import soon, wait_until_arrived
from plugins.tcp_store.tests.rank_functions import Job, arrive, join
from tests.support.sizes import size

ROUNDS = size(30, 200)


def torchrun(rank: int, job: str) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": job}


def srun(rank: int, job: str) -> dict[str, str]:
    size = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    # Steps of one allocation: the job's number is the same.
    return {"SLURM_PROCID": str(rank), "SLURM_JOB_ID": "812", "SLURM_STEP_ID": job, **size}


def mpirun(rank: int, job: str) -> dict[str, str]:
    size = {"OMPI_COMM_WORLD_SIZE": "2"}
    return {"OMPI_COMM_WORLD_RANK": str(rank), "PMIX_NAMESPACE": f"prterun-{job}@1", **size}


def srun_with_pmi(rank: int, job: str) -> dict[str, str]:
    return {"PMI_RANK": str(rank), "PMI_SIZE": "2", "PMI_JOBID": job}


def by_hand(rank: int, job: str) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": "2", "BARRIER_JOB_ID": job}


LAUNCHERS = {f.__name__: f for f in (torchrun, srun, mpirun, srun_with_pmi, by_hand)}
ORDERS = ["A0 A1 B0 B1", "A0 B1 B0 A1", "B1 A1 A0 B0", "A1 B0 A0 B1"]


class Launched(NamedTuple):
    """The process that is a rank of a job, and what the launcher has set for it."""

    process: int
    environ: dict[str, str]


def make(process: int, environ: dict[str, str], options: dict[str, Any]) -> None:
    """Make the barrier as a script does that is started in this environment."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "PMI"))]:
        del os.environ[name]
    with mock.patch.dict(os.environ, environ):
        state["barrier"] = create_barrier("tcp_store", **{"timeout_secs": 60} | options)


def go(process: int, rounds: int, tag: str) -> None:
    """Go through the barrier. Ranks of another job have another tag: they would break a round."""
    for _ in range(rounds):
        state["barrier"].execute_barrier(tag=tag)


def leave(process: int) -> None:
    """Leave."""
    state.pop("barrier").close()


def launched(launcher: str, agent_port: int | None = None) -> dict[str, Launched]:
    """Say how the ranks of two jobs are started, ``A0`` and ``A1``, ``B0`` and ``B1``."""
    agent = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(agent_port),
    }
    jobs = {name: uuid.uuid4().hex for name in "AB"}
    return {
        name: Launched(
            process,
            LAUNCHERS[launcher](int(name[1]), jobs[name[0]]) | (agent if agent_port else {}),
        )
        for process, name in enumerate(["A0", "A1", "B0", "B1"])
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("store", ["hosted", "shared"])
def test_a_job_passes_only_with_its_own_ranks(
    ranks: RankProcesses, libuv_port: int, store: str, launcher: str, order: str
) -> None:
    who = launched(launcher, libuv_port if store == "shared" else None)
    calls = {}
    for name in order.split():
        calls[name] = ranks.start(who[name].process, make, who[name].environ, {})
        host = calls.get(f"{name[0]}0")
        if host is not None:  # it waits for nobody, and the others only for it
            host.result()
            calls[name].result()
    for call in calls.values():
        call.result()

    waiting = ranks.start(who["A0"].process, go, 1, "A")
    ranks.run_all(go, ROUNDS, "B", ranks=[2, 3])
    assert not waiting.done()
    ranks.run(who["A1"].process, go, 1, "A")
    waiting.result()

    both = [*ranks.start_all(go, ROUNDS, "A", ranks=[0, 1])]
    both += ranks.start_all(go, ROUNDS, "B", ranks=[2, 3])
    for call in both:
        call.result()
    ranks.run_all(leave, ranks=[0, 1])
    ranks.run_all(go, 1, "B", ranks=[2, 3])
    ranks.run_all(leave, ranks=[2, 3])


STARTER = """
import os, subprocess, sys
ranks = [
    subprocess.Popen(
        sys.argv[1:],
        env={**os.environ, "PMI_RANK": str(rank), "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"},
    )
    for rank in (0, 1)
]
sys.exit(max(rank.wait() for rank in ranks))
"""
RANK = f"""
import os, sys
from barrier_core import create_barrier
with create_barrier("tcp_store", timeout_secs=50) as barrier:
    barrier.execute_barrier(tag=sys.argv[1])
    os.write(1, b"in\\n")  # in one piece
    sys.stdin.readline()
    for _ in range({ROUNDS}):
        barrier.execute_barrier(tag=sys.argv[1])
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc is read")
def test_two_jobs_of_mpichs_mpiexec_on_one_host_do_not_meet() -> None:
    with ExitStack() as stack:
        jobs = []
        for name in "AB":
            command = [sys.executable, "-c", STARTER, sys.executable, "-c", RANK, name]
            job = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            jobs.append(stack.enter_context(job))
            stack.callback(job.kill)
        for job in jobs:
            assert job.stdout is not None
            assert [job.stdout.readline() for _ in range(2)] == [b"in\n", b"in\n"]
        for job in jobs:
            job.communicate(timeout=60)  # the end of input: go on
        assert [job.returncode for job in jobs] == [0, 0]


def test_a_stranger_at_a_port_that_both_jobs_were_given_is_refused_and_harms_nobody(
    ranks: RankProcesses, free_port: int
) -> None:
    who = launched("srun")
    options = {"tcpstore_port": free_port, "master_address": "127.0.0.1"}
    ranks.run(who["A0"].process, make, who["A0"].environ, options)
    impatient = options | {"timeout_barrier_init_secs": 1}

    with soon(), pytest.raises(BarrierSetupError, match=r"the port is taken.*BARRIER_JOB_ID"):
        ranks.run(who["B0"].process, make, who["B0"].environ, options)
    jobs = [who[name].environ["SLURM_STEP_ID"] for name in ("A0", "B1")]
    with (
        soon(),
        pytest.raises(
            BarrierSetupError,
            match="the store is that of the job 'slurm-812.{}', and this rank is of the job "
            "'slurm-812.{}'".format(*jobs),
        ),
    ):
        ranks.run(who["B1"].process, make, who["B1"].environ, impatient)

    ranks.run(who["A1"].process, make, who["A1"].environ, options)
    ranks.run_all(go, ROUNDS, "A", ranks=[0, 1])
    ranks.run_all(leave, ranks=[0, 1])


def test_a_killed_job_starts_again_under_a_new_job_id_on_a_store_that_lives_on(
    ranks: RankProcesses, new_job: NewJob
) -> None:
    job = new_job(job_id="first")
    ranks.run_all(join, job)
    ranks.run_all(arrive, job)
    calls = ranks.start_all(arrive, job, ranks=[0, 1])
    wait_until_arrived(job, [0, 1], number=2)
    for rank in range(4):
        ranks.kill(rank)
        ranks.replace(rank)
    assert all(call.error() for call in calls)

    with pytest.raises(RankConflictError, match="came back alone"):
        ranks.run(0, join, job)
    again = job.but(job_id="second")
    ranks.run_all(join, again)
    for number in range(1, 4):
        assert ranks.run_all(arrive, again) == [number] * 4


def test_two_jobs_without_an_id_are_told_how_to_get_one(ranks: RankProcesses, job: Job) -> None:
    ranks.run_all(join, job, ranks=[0, 1])
    with pytest.raises(
        RankConflictError, match="if these are two jobs, give each a job_id, or BARRIER_JOB_ID"
    ):
        ranks.run(2, make, {**by_hand(1, ""), **job.environment}, {"barrier_prefix": job.prefix})


def test_the_port_follows_from_the_job_id_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    assert default_port("") == 29511
    assert default_port("slurm-812.0") == default_port("slurm-812.0")
    ports = {default_port(f"slurm-{number}.0") for number in range(2000)}
    assert min(ports) >= 11_000
    assert max(ports) < 20_000
    assert len(ports) > 1700
    job_id = uuid.uuid4().hex
    monkeypatch.setenv("BARRIER_JOB_ID", "the option beats it")
    for given, port in ((None, default_port(job_id)), (free_port, free_port)):
        with TCPStoreBarrier(0, 1, job_id=job_id, tcpstore_port=given) as barrier:
            assert barrier.job_id == job_id
            assert barrier._store.name == f"TCP store at 127.0.0.1:{port}, hosted by rank 0"
