"""The benchmarks work: a run of seconds, of which the times mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).parents[1]
OURS = {
    *("tcp_store", "telemetry_at_rest", "telemetry", "seed", "store_barrier", "raw_socket"),
    *("dist_barrier", "torch_checkpointing"),
}
"""Contenders that need nothing but the development environment."""


@pytest.mark.timeout(180)
def test_a_smoke_run_measures_every_contender_or_says_why_not(tmp_path: Path) -> None:
    json_path, plot_path = tmp_path / "results.json", tmp_path / "results.png"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--smoke"),
            *("--backend", "tcp_store", "--argument", f"tcpstore_port={free_port()}"),
            *("--json", str(json_path), "--plot", str(plot_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(json_path.read_text())
    rows = results["micros_per_barrier"]["2"]
    names = {path.stem for path in (ROOT / "benchmarks/contenders").glob("[a-z]*.py")}
    by_name = "backend:tcp_store"
    assert set(rows) == names | {by_name}
    for name, row in rows.items():
        if name in OURS | {by_name}:
            assert "skipped" not in row
        if "skipped" in row:
            assert row["skipped"]
        else:
            assert 0 < row["best"] <= row["median"]
            assert row["rank_cpu"] >= 0
        assert row["title"] in done.stdout
    assert results["overhead_micros"]["unwanted"] == []
    assert results["overhead_micros"]["round_without_observers"][0] > 0
    assert [load["ranks"] for load in results["growth"]["loads"]] == [2, 4]
    # The plot needs matplotlib, which only `make bench` installs.
    assert plot_path.exists() or "no plot" in done.stdout
