"""The tests of the core and of the report on other Pythons; they need no torch.

`make test` runs them on the oldest and on the newest that the project supports: what one of them
lacks or does differently, those between lack or do as well. `make test-all` runs them on every one
that the machine has.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.environments import ROOT, VirtualEnvironment, run
from tests.support.sizes import size

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
THIS_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

REPORT = ROOT / "plugins" / "report"

# What an environment is made from: it is made anew when one of these has changed.
INGREDIENTS = ("pyproject.toml", "plugins/report/pyproject.toml", "constraints.txt")


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of this version may be; not every one that exists also runs."""
    for folder in os.get_exec_path():
        yield Path(folder, f"python{version}")
    for installed in sorted(Path.home().glob(f".pyenv/versions/{version}.*")):
        yield installed / "bin" / f"python{version}"


def runs(python: Path, version: str) -> bool:
    asked = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [python, "-I", "-c", asked], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def find_python(version: str) -> Path | None:
    return next((python for python in candidates(version) if runs(python, version)), None)


def environment_for(python: Path, version: str) -> VirtualEnvironment:
    """The environment for one Python, with the core from this tree and its tests' needs."""
    environment = VirtualEnvironment(ROOT / ".venvs" / version)
    stamp = environment.path / ".installed"
    made_from = hashlib.sha256(str(python).encode())
    for ingredient in INGREDIENTS:
        made_from.update((ROOT / ingredient).read_bytes())

    if not stamp.exists() or stamp.read_text() != made_from.hexdigest():
        environment = VirtualEnvironment.create(environment.path, python)
        environment.pip(
            "install", "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[test]", "-e", REPORT
        )
        stamp.write_text(made_from.hexdigest())
    return environment


def run_the_cores_tests(version: str) -> bool:
    """Run them on one Python; False where the machine has none of this version."""
    python = find_python(version)
    if python is None:
        return False
    environment = environment_for(python, version)

    # Its own cache folder is of no use: one would overwrite the other.
    ignored = [f"--ignore=tests/core/{name}" for name in size(SAME_EVERYWHERE, ())]
    options = ("-q", "-p", "no:cacheprovider", *ignored)
    tests = ("tests/core", REPORT / "tests")
    run(environment.python, "-m", "pytest", *options, *tests, timeout=480)
    return True


SAME_EVERYWHERE = ("test_protocol_model.py", "test_report_page.py")
"""Half a minute of states that are the same on every Python, and what a browser shows."""
OTHERS = [
    version for version in size((VERSIONS[0], VERSIONS[-1]), VERSIONS) if version != THIS_VERSION
]


@pytest.fixture(scope="module")
def core_runs() -> Iterator[dict[str, Future[bool]]]:
    """A run for each Python, all at once: they wait more than they compute."""
    faulthandler.cancel_dump_traceback_later()  # who waits for them is not stuck
    with ThreadPoolExecutor(len(OTHERS)) as pool:
        yield {version: pool.submit(run_the_cores_tests, version) for version in OTHERS}


@pytest.mark.timeout(600)  # the first run makes the environments
@pytest.mark.parametrize("version", OTHERS)
def test_the_core_passes_its_tests_without_torch_on_python(
    core_runs: dict[str, Future[bool]], version: str
) -> None:
    if not core_runs[version].result():
        pytest.skip(f"no Python {version} on this machine")
