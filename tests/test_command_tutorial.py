"""CONTRIBUTING's command, installed as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomli

from barrier_core import create_barrier
from barrier_core.hooks import plugin_manager
from barrier_core.observers.trace_observer import TraceObserver
from tests.core.conftest import Site
from tests.support.environments import ROOT


def block(language: str) -> str:
    """The section's one code block in a language."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## How to add a command\n")[1]
    section = section.split("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A folder in which the section's distribution is installed."""
    project = tomli.loads(block("toml"))["project"]
    ((group, commands),) = project["entry-points"].items()
    ((name, value),) = commands.items()
    site = Site(tmp_path)
    site.install(
        project["name"],
        f"[{group}]\n{name} = {value}\n",
        project["version"],
        {value.partition(":")[0]: block("python")},
    )
    return site


def barrier(site: Site, *arguments: str | Path) -> str:
    """What the command prints in a process that finds the distribution."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "barrier_core", *arguments],
        env={**os.environ, "PYTHONPATH": f"{site.path}"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_the_tutorials_command_counts_the_rounds(site: Site, tmp_path: Path) -> None:
    observer = TraceObserver(tmp_path / "traces")
    plugin_manager.register(observer)
    with create_barrier("local", global_rank=0, global_world_size=1) as alone:
        for _ in range(3):
            alone.execute_barrier()
    plugin_manager.unregister(observer)
    observer.close()

    output = barrier(site, "count", tmp_path / "traces")

    assert re.fullmatch(r"rank0-.*\.trace: 3\n", output)


def test_the_help_names_the_tutorials_command_and_its_distribution(site: Site) -> None:
    assert re.search(r"^  count +from barrier-count 1\.0$", barrier(site, "--help"), re.MULTILINE)
