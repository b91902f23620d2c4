"""``barrier check`` and ``barrier wait`` over tcp_store, with ranks that are real processes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.ports import free_port

BARRIER = Path(sys.executable).with_name("barrier")
TORCHRUN = Path(sys.executable).with_name("torchrun")
WORLD_SIZE = 4
LIMIT_SECS = 60


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what a launcher or a barrier's user has set."""
    theirs = "RANK$|WORLD_SIZE$|LOCAL_|MASTER_|OMPI_|PMI_|SLURM_|TORCHELASTIC_|BARRIER_|FORCE_COLOR"
    ours = {name: value for name, value in os.environ.items() if not re.match(theirs, name)}
    return ours | more


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECS,
        check=False,
    )


def srun(
    *command: str | Path, world_size: int = WORLD_SIZE, ranks: Sequence[int] = range(WORLD_SIZE)
) -> list[subprocess.CompletedProcess[str]]:
    """Run a command on some ranks, side by side, with the variables that Slurm sets for each."""

    def one(rank: int) -> subprocess.CompletedProcess[str]:
        return run(*command, SLURM_PROCID=str(rank), SLURM_NTASKS=str(world_size))

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(one, ranks))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file for a store on a port that is free."""
    path = tmp_path / "barrier.toml"
    path.write_text(
        "[barrier]\n"
        'barrier_type = "tcp_store"\n'
        "[barrier.barrier_args]\n"
        'master_address = "127.0.0.1"\n'
        f"tcpstore_port = {free_port()}\n"
        "timeout_secs = 50\n"
    )
    return path


# --- barrier check -------------------------------------------------------------------------------


def assert_table(output: str, rounds: int) -> None:
    """Check that there is one line for each rank, and that one of them came last in each round."""
    heading, *rows = (line.split() for line in output.splitlines())
    assert heading == ["RANK", "HOST", "MEDIAN", "US", "P99", "US", "CAME", "LAST"]
    assert [row[0] for row in rows] == [str(rank) for rank in range(WORLD_SIZE)]
    assert {row[1] for row in rows} == {socket.gethostname()}
    assert all(0 < float(median) <= float(p99) for _, _, median, p99, *_ in rows)
    assert sum(int(row[4]) for row in rows) == rounds
    assert all(row[5:] == ["of", str(rounds)] for row in rows)


def test_check_starts_four_ranks_and_says_who_came_last_how_often(config: Path) -> None:
    result = run(BARRIER, "check", "-n", str(WORLD_SIZE), "--config", config)

    assert (result.returncode, result.stderr) == (0, "")
    assert_table(result.stdout, rounds=200)


def test_check_says_why_no_barrier_can_be_made(config: Path) -> None:
    run_check = (BARRIER, "check", "-n", "2", "--config", config)

    result = run(*run_check, "--arg", "master_address=192.0.2.1", "--arg", IMPATIENT)

    assert (result.returncode, result.stdout) == (1, "")
    assert "rank 0: " in result.stderr
    assert "rank 1: rank 1 cannot reach the " in result.stderr
    assert "master_address='192.0.2.1'" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_under_torchrun_uses_its_store_and_rank_0_writes_a_line_for_every_rank() -> None:
    torchrun = (TORCHRUN, "--standalone", f"--nproc-per-node={WORLD_SIZE}", "--no-python")

    result = run(*torchrun, BARRIER, "check", "--type", "tcp_store", "--rounds", "50")

    assert result.returncode == 0, result.stderr
    assert_table(result.stdout, rounds=50)


def test_check_under_slurm_says_who_came_last_how_often(config: Path) -> None:
    first, *others = srun(BARRIER, "check", "--config", config, "--rounds", "50")

    assert [each.returncode for each in (first, *others)] == [0] * WORLD_SIZE, first.stderr
    assert_table(first.stdout, rounds=50)
    assert [(each.stdout, each.stderr) for each in others] == [("", "")] * 3


def test_checks_that_run_at_once_do_not_meet() -> None:
    command: list[str | Path] = [
        BARRIER,
        "check",
        "-n",
        "2",
        "--type",
        "tcp_store",
        "--rounds",
        "50",
    ]
    with ThreadPoolExecutor(2) as pool:
        checks = list(pool.map(lambda _: run(*command), range(2)))
    assert [check.returncode for check in checks] == [0, 0], [check.stderr for check in checks]


# --- barrier wait --------------------------------------------------------------------------------

IMPATIENT = "timeout_barrier_init_secs=1"


def test_wait_passes_silently_when_all_ranks_have_come(config: Path) -> None:
    results = srun(BARRIER, "wait", "--config", config, "--tag", "setup-done", "--timeout", "50")

    assert [(each.returncode, each.stdout, each.stderr) for each in results] == [(0, "", "")] * 4


def test_wait_fails_with_one_verdict_where_a_rank_is_missing(config: Path) -> None:
    wait = (BARRIER, "wait", "--config", config, "--tag", "setup-done", "--timeout", "2")

    results = srun(*wait, ranks=[0, 1, 3])

    assert [(each.returncode, each.stdout) for each in results] == [(1, "")] * 3
    (verdict,) = {each.stderr for each in results}
    assert verdict.startswith("Error: round 1 'setup-done' timed out after ")
    assert "rank 2 (has not joined)" in verdict


def test_wait_fails_where_tags_differ(config: Path) -> None:
    def one(rank: int, tag: str) -> subprocess.CompletedProcess[str]:
        wait = (BARRIER, "wait", "--config", config, "--tag", tag)
        return run(*wait, SLURM_PROCID=str(rank), SLURM_NTASKS="2")

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, range(2), ("data", "model")))

    assert [each.returncode for each in results] == [1, 1]
    assert all("tags: 'data' on rank 0, 'model' on rank 1" in each.stderr for each in results)


def test_wait_exits_3_where_the_store_is_not_there(config: Path) -> None:
    (result,) = srun(BARRIER, "wait", "--config", config, "--arg", IMPATIENT, ranks=[1])

    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: rank 1 cannot reach the ")
    assert "Traceback" not in result.stderr
