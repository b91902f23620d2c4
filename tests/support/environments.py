"""Virtual environments for the tests that install something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]

# Of this run and none of the child's business: coverage would measure it, pytest's own options
# would apply to it, PYTHONPATH and a barrier's settings would change what it finds.
_NOT_INHERITED = ("BARRIER_", "COVERAGE_", "PYTEST_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def run(
    *command: str | Path, cwd: Path = ROOT, timeout: float = 110
) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this test run; a failure shows what it printed.

    Its temporary files go to a folder of its own. In the one that all share, a run of pytest that
    ends clears away what older runs left; two that do it at once can make each other fail.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    with TemporaryDirectory(prefix="barrier-tests-", ignore_cleanup_errors=True) as temporary:
        result = subprocess.run(
            command,
            cwd=cwd,
            env={**environment, "TMPDIR": temporary},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    assert result.returncode == 0, (
        f"{' '.join(map(str, command))} exited with {result.returncode}\n"
        f"{result.stdout}{result.stderr}"
    )
    return result


class VirtualEnvironment:
    """A virtual environment without pip: this interpreter's pip installs into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"

    @classmethod
    def create(cls, path: Path, interpreter: str | Path = sys.executable) -> VirtualEnvironment:
        """Make an empty environment for an interpreter, in place of what is there."""
        run(interpreter, "-m", "venv", "--clear", "--without-pip", path)
        return cls(path)

    def pip(self, *arguments: str | Path) -> None:
        """Run pip on this environment."""
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "--python", self.python, *arguments)
