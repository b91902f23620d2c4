"""The ``barrier`` command, called as people and programs call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from barrier_core.cli import main
from tests.support.environments import ROOT


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What it wrote, without regard to where lines were broken."""
        return " ".join(self.out.split())


class Command:
    """The command in this process.

    Args:
        capture: ``capsys``; or ``capfd``, where other processes write as well.
    """

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(arguments, prog_name="barrier")
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, *self._capture.readouterr())


def in_a_process(folder: Path, *arguments: str, **environ: str) -> Outcome:
    """Run the command in a process of its own, which finds what is installed and what is in folder.

    Of the backends it uses ``alpha`` only.
    """
    run = subprocess.run(
        [sys.executable, "-m", "barrier_core", *arguments],
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "BARRIER_PLUGINS": "alpha",
            **environ,
        },
        timeout=100,
        check=False,
    )
    return Outcome(run.returncode, run.stdout, run.stderr)
