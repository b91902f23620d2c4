"""The core with the oldest and the newest pluggy and importlib-metadata, in all combinations.

``make compat`` runs these alone. Each runs the tests of the contract and of discovery on a core
without torch; what they install is kept in ``.venvs``.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.environments import ROOT, VirtualEnvironment, run

# The first is the oldest that pyproject.toml allows, the last the one that constraints.txt pins.
PLUGGY = ("1.5.0", "1.7.0")
IMPORTLIB_METADATA = ("8.7.0", "9.1.0", "10.2.0")
TESTS = (
    "test_broken_plugins.py",
    "test_contract.py",
    "test_discovery_scale.py",
    "test_installed_observers.py",
    "test_observer_loading.py",
    "test_observers.py",
    "test_plugin_choice.py",
    "test_registry.py",
)

# Fails unless what is imported is what was asked for; then pytest gets the rest of the arguments.
CHECKED = """
import importlib.util, sys
import importlib_metadata, pluggy, pytest
folder, *wanted = sys.argv[1:4]
for module, version in zip((pluggy, importlib_metadata), wanted):
    assert module.__file__.startswith(folder), module.__file__
    assert importlib_metadata.version(module.__name__) == version, module
assert importlib.util.find_spec("torch") is None
sys.exit(pytest.main(sys.argv[4:]))
"""


@pytest.fixture(scope="session")
def environment() -> VirtualEnvironment:
    """An environment with the core from this tree and what its tests need."""
    environment = VirtualEnvironment(ROOT / ".venvs" / "compat")
    stamp = environment.path / ".installed"
    made_from = hashlib.sha256(sys.executable.encode())
    for ingredient in ("pyproject.toml", "constraints.txt"):
        made_from.update((ROOT / ingredient).read_bytes())

    if not stamp.exists() or stamp.read_text() != made_from.hexdigest():
        environment = VirtualEnvironment.create(environment.path)
        environment.pip("install", "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[test]")
        stamp.write_text(made_from.hexdigest())
    return environment


def install(environment: VirtualEnvironment, pluggy: str, importlib_metadata: str) -> Path:
    """Install one combination into a folder, whose packages come before the environment's."""
    folder = environment.path / "with" / f"pluggy-{pluggy}-importlib-metadata-{importlib_metadata}"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        environment.pip(
            "install",
            "--no-deps",
            "--upgrade",
            f"--target={unfinished}",
            f"pluggy=={pluggy}",
            f"importlib-metadata=={importlib_metadata}",
        )
        unfinished.rename(folder)
    return folder


def run_discoverys_tests(environment: VirtualEnvironment, combination: tuple[str, str]) -> None:
    folder = install(environment, *combination)
    python = ("env", f"PYTHONPATH={folder}", environment.python, "-c", CHECKED)
    options = ("-q", "-p", "no:cacheprovider", *(f"tests/core/{name}" for name in TESTS))
    run(*python, folder, *combination, *options)


COMBINATIONS = [
    (pluggy, importlib_metadata)
    for pluggy in PLUGGY
    for importlib_metadata in IMPORTLIB_METADATA
    # importlib-metadata 10 needs Python 3.11.
    if sys.version_info >= (3, 11) or not importlib_metadata.startswith("10.")
]


@pytest.fixture(scope="module")
def outcomes(environment: VirtualEnvironment) -> Iterator[dict[tuple[str, str], Future[None]]]:
    """A run for each combination, two at once."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            combination: pool.submit(run_discoverys_tests, environment, combination)
            for combination in COMBINATIONS
        }


@pytest.mark.timeout(300)  # the first run makes the environment
@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_discovery_works_with(
    outcomes: dict[tuple[str, str], Future[None]], combination: tuple[str, str]
) -> None:
    outcomes[combination].result()


@pytest.mark.parametrize(
    ("name", "versions"), [("pluggy", PLUGGY), ("importlib-metadata", IMPORTLIB_METADATA)]
)
def test_the_oldest_is_the_lower_bound_and_the_newest_is_pinned(
    name: str, versions: tuple[str, ...]
) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    constraints = (ROOT / "constraints.txt").read_text()
    oldest = versions[0].removesuffix(".0")

    assert re.search(rf'^ *"{name}>={re.escape(oldest)}"', pyproject, re.MULTILINE)
    assert re.search(rf"^{name}=={re.escape(versions[-1])}(;|$)", constraints, re.MULTILINE)
