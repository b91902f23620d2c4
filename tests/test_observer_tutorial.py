"""CONTRIBUTING's observer, installed as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import tomli

from tests.core.conftest import Site
from tests.support.environments import ROOT

# Rank 0 waits for rank 1, which is slow.
ONE_SLOW_ROUND = """
import threading, time
from barrier_core import create_barrier
from barrier_core.plugin_api import hookimpl, plugin_manager

entered = threading.Event()

class Entrance:
    @hookimpl
    def barrier_enter(self):
        entered.set()

plugin_manager.register(Entrance())
first, second = [create_barrier("local", global_rank=n, global_world_size=2) for n in range(2)]
waiting = threading.Thread(target=first.execute_barrier)
waiting.start()
entered.wait()
time.sleep(0.3)
second.execute_barrier()
waiting.join()
"""


def block(language: str) -> str:
    """The section's one code block in a language."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## How to write an observer\n")[1]
    section = section.split("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_tutorials_observer_prints_the_rounds_that_are_slow(tmp_path: Path) -> None:
    ((group, observers),) = tomli.loads(block("toml"))["project"]["entry-points"].items()
    ((name, value),) = observers.items()
    module = value.partition(":")[0]
    site = Site(tmp_path)
    entry_points = f"[{group}]\n{name} = {value}\n"
    site.install("barrier-slow-rounds", entry_points, modules={module: block("python")})

    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", ONE_SLOW_ROUND],
        env={**os.environ, "PYTHONPATH": f"{site.path}", "BARRIER_OBSERVERS": name},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout

    assert re.search(r"^rank 0 waited \d+\.\d s in round 1$", output, re.MULTILINE)
