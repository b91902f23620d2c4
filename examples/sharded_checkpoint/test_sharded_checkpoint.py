from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from barrier_core.testing.rank_processes import RankProcesses
from examples.sharded_checkpoint import demo

DEMO = Path(demo.__file__)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo shows; in its temporary directory it must leave the report's page only."""
    scratch = tmp_path_factory.mktemp("scratch")
    result = subprocess.run(
        [sys.executable, DEMO],
        env={**os.environ, "TMPDIR": str(scratch), "BARRIER_ARG_TIMEOUT_SECS": "600"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    left = [path.name for path in scratch.iterdir() if not path.name.startswith("torch")]
    assert left == [demo.PAGE]
    return result.stdout


@pytest.mark.timeout(300)
def test_each_backend_commits_three_checkpoints(shown: str) -> None:
    parts = shown.split("\n\n")
    for part, barrier_type in ((parts[1], "tcp_store"), (parts[2], "dist_barrier")):
        assert f"{barrier_type}: " in part
        for step in demo.ALL_STEPS:
            (line,) = (line for line in part.splitlines() if line.startswith(f"  {step}: "))
            assert line.endswith("read back bit for bit by 4 ranks")
            assert " 4 shards, " in line
        assert "exit status 0, 3 checkpoints committed" in part


@pytest.mark.timeout(300)
def test_a_stopped_rank_is_named_and_nothing_is_committed_by_halves(shown: str) -> None:
    part = shown.split("\n\n")[3]
    assert "ranks 0, 1, 2 raise BarrierTimeoutError after 5." in part
    assert "1 of 4 ranks did not arrive: rank 3 (" in part
    assert 'alive, stopped by a signal, last progress "about to save step 20"' in part
    assert "exit status 1; on disk:" in part
    assert "    step-10: 4 of 4 shards, committed" in part
    assert "    tmp-step-20: 3 of 4 shards, never committed" in part


@pytest.mark.timeout(300)
def test_the_report_of_the_run_comes_last(shown: str) -> None:
    report = shown.partition("Who was late?")[2]
    # Two jobs with four rounds and one with three, whose ranks have all left their traces.
    assert f"rounds of {demo.RANKS} ranks on 1 host" in report
    assert "1 of them failed" in report
    assert "step # committed" in report
    assert demo.PAGE in report


@pytest.mark.timeout(300)
def test_the_output_is_short(shown: str) -> None:
    assert len(shown.splitlines()) <= 60
    assert shown.splitlines()[-1].startswith("All three parts went as they should, in ")


def job(tmp_path: Path, *directories: str) -> demo.Job:
    """A job that has ended well and left these directories."""
    result = demo.Job(tmp_path, lines=[demo.READ_BACK] * 3)
    for name in directories:
        (tmp_path / name).mkdir()
    return result


def test_the_demo_fails_where_a_complete_job_did_not_commit(tmp_path: Path) -> None:
    with pytest.raises(demo.UnexpectedError, match="committed"):
        demo.check_complete(job(tmp_path, "step-10", "step-20"))


def test_the_demo_fails_where_a_complete_job_left_something(tmp_path: Path) -> None:
    with pytest.raises(demo.UnexpectedError, match="left behind"):
        demo.check_complete(job(tmp_path, *demo.ALL_STEPS, "tmp-step-30"))


def stopped(tmp_path: Path, *directories: str, secs: float = 5.0, names: int = 3) -> demo.Job:
    """A job whose ranks 0 to 2 have raised."""
    result = job(tmp_path, *directories)
    result.exit_status = 1
    raised = demo.Raised("BarrierTimeoutError", secs, f"did not arrive: rank {names} (host)")
    result.raised = {0: raised, 1: raised, 2: raised}
    return result


def test_the_demo_fails_where_half_a_checkpoint_was_committed(tmp_path: Path) -> None:
    demo.check_stopped(stopped(tmp_path, "step-10", "tmp-step-20"))
    (tmp_path / "tmp-step-20").rename(tmp_path / "step-20")
    with pytest.raises(demo.UnexpectedError, match="committed"):
        demo.check_stopped(stopped(tmp_path))


def test_the_demo_fails_where_ranks_raise_late_or_name_the_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(demo.UnexpectedError, match="raised only after"):
        demo.check_stopped(stopped(tmp_path, "step-10", secs=11.0))
    with pytest.raises(demo.UnexpectedError, match="nobody says who"):
        demo.check_stopped(stopped(tmp_path, names=2))


def compares_bits(rank: int) -> list[bool]:
    import torch

    from examples.sharded_checkpoint.train import same_bits

    def state() -> dict[str, object]:
        return {"parameters": torch.tensor([0.0, 1.0]), "groups": [{"step": torch.tensor(3.0)}]}

    other_sign, other_step, other_type, fewer = state(), state(), state(), state()
    other_sign["parameters"] = torch.tensor([-0.0, 1.0])
    other_step["groups"] = [{"step": torch.tensor(4.0)}]
    other_type["parameters"] = torch.tensor([0, 0x3F800000], dtype=torch.int32)  # the same bytes
    del fewer["groups"]
    others = (state(), other_sign, other_step, other_type, fewer)
    return [same_bits(state(), other) for other in others]


def test_reading_back_compares_every_bit(ranks: RankProcesses) -> None:
    assert ranks.run_all(compares_bits)[0] == [True, False, False, False, False]
