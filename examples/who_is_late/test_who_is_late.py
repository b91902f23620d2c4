from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.who_is_late import run
from tests.support.network import Network


@pytest.fixture
def hosts() -> None:
    """Skip where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which need root")
    network = Network(["gpu-1"])
    try:
        network.lay()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces or TUN devices cannot be made here: {error}")
    finally:
        network.remove()


@pytest.mark.usefixtures("hosts")
def test_the_report_blames_the_slow_rank_the_slow_host_and_the_dead_rank(tmp_path: Path) -> None:
    traces = tmp_path / "traces"

    # The slow rank is late by half of a step: more than a busy machine makes the others late by.
    steps = ("--steps=40", "--step-secs=0.15")
    shown = subprocess.run(
        [sys.executable, run.__file__, *steps, f"--traces={traces}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout

    command = [sys.executable, "-m", "barrier_core", "report", str(traces), "--json"]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    tags = {tag["tag"]: tag for tag in report["tags"]}
    slow_host_ranks = [4, 5]
    assert tags["train step=#"]["worst_rank"] == run.SLOW_RANK
    assert tags["save step=#"]["worst_rank"] in slow_host_ranks
    assert {report["hosts"][0]["host"], report["hosts"][1]["host"]} == {"gpu-2", run.SLOW_HOST}
    (failure,) = report["failures"]
    assert (failure["kind"], failure["missing"]) == ("dead", str(run.DEAD_RANK))
    assert "ranks 0, 1, 2, 3, 4, 5, 6 raised, all with this message:" in shown
    assert f"rank {run.DEAD_RANK} (gpu-4" in shown
