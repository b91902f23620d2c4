"""Plugins by others: those that ``barrier new`` writes, and the example that the tutorial shows."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from barrier_core.cli import main
from tests.support.environments import ROOT, VirtualEnvironment, run

EXAMPLE = ROOT / "examples" / "third_party_backend"


def new(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["new", *map(str, arguments)])


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One plugin of each kind."""
    folder = tmp_path_factory.mktemp("generated")
    plugins = {"a_store": folder / "store", "bare": folder / "bare"}
    for name, flag in {"a_store": "--store", "bare": "--bare"}.items():
        result = new(name, flag, "--directory", plugins[name])
        assert result.exit_code == 0, result.output
    return plugins


@pytest.fixture(scope="module")
def installed(
    generated: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> VirtualEnvironment:
    """A fresh environment with the core's wheel, the generated plugins and the example."""
    folder = tmp_path_factory.mktemp("installed")
    built = ("-m", "build", "--no-isolation", "--wheel", "--outdir", folder)
    projects = [ROOT, EXAMPLE, *generated.values()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda project: run(sys.executable, *built, project), projects))
    environment = VirtualEnvironment.create(folder / "venv")
    environment.pip("install", "-c", ROOT / "constraints.txt", "pytest", *folder.glob("*.whl"))
    return environment


@pytest.mark.timeout(240)
def test_new_plugins_and_the_example_are_listed_once_installed(
    installed: VirtualEnvironment, tmp_path: Path
) -> None:
    output = run(installed.path / "bin" / "barrier", "list", "--json", cwd=tmp_path).stdout

    states = {entry["name"]: entry["state"] for entry in json.loads(output)}
    assert states.keys() == {"a_store", "bare", "file", "local"}
    assert set(states.values()) == {states["local"]}


@pytest.mark.timeout(240)
def test_new_plugins_pass_their_own_tests_as_they_are(
    installed: VirtualEnvironment, generated: dict[str, Path]
) -> None:
    def run_tests(plugin: Path) -> str:
        command = (installed.python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        return run(*command, cwd=plugin).stdout

    with ThreadPoolExecutor(2) as pool:  # they wait more than they compute
        outputs = list(pool.map(run_tests, generated.values()))

    assert all(" passed" in output and "failed" not in output for output in outputs)


def test_new_plugins_are_typed(generated: dict[str, Path], tmp_path: Path) -> None:
    for plugin in generated.values():
        assert list(plugin.glob("*/py.typed"))
        mypy = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache")
        run(*mypy, "--explicit-package-bases", ".", cwd=plugin)


def test_new_plugins_are_as_tidy_as_the_project(generated: dict[str, Path]) -> None:
    for plugin in generated.values():
        for command in (("check", "--ignore=D,I001,INP"), ("format", "--check")):
            run(
                sys.executable,
                "-m",
                "ruff",
                *command,
                f"--config={ROOT / 'pyproject.toml'}",
                "--no-cache",
                plugin,
            )


def test_a_new_plugin_is_described_by_info(installed: VirtualEnvironment, tmp_path: Path) -> None:
    output = run(installed.path / "bin" / "barrier", "info", "a_store", cwd=tmp_path).stdout

    assert "barrier-a-store 0.1.0" in output
    assert "timeout_secs" in output


def test_the_store_is_what_one_gets_without_asking(tmp_path: Path) -> None:
    new("mine", "--directory", tmp_path)

    assert "StoreBarrier" in (tmp_path / "barrier_mine" / "__init__.py").read_text()


def test_a_directory_is_named_after_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = new("my_store")

    assert result.exit_code == 0, result.output
    assert (tmp_path / "barrier-my-store" / "barrier_my_store" / "__init__.py").is_file()
    assert "pip install -e 'barrier-my-store[test]'" in result.output


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    result = new("mine", "--directory", tmp_path)

    assert result.exit_code == 1
    assert "is not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["Mine", "my-store", "2nd", "_mine", "my__store", "class", "", "mine/yours"]
)
def test_a_name_that_cannot_be_a_type_is_refused(name: str, tmp_path: Path) -> None:
    result = new(name, "--directory", tmp_path / "plugin")

    assert result.exit_code == 2
    assert "cannot be a barrier type" in result.output
    assert not (tmp_path / "plugin").exists()


@pytest.mark.parametrize("name", ["local", "tcp_store", "core"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    result = new(name, "--directory", tmp_path / "plugin")

    assert result.exit_code == 2
    assert f"'{name}' is taken" in result.output


def test_the_example_is_short() -> None:
    lines = (EXAMPLE / "barrier_file" / "__init__.py").read_text().splitlines()

    assert sum(1 for line in lines if line.strip()) < 120


def test_the_example_is_no_part_of_the_workspace() -> None:
    makefile = (ROOT / "Makefile").read_text()

    assert "third_party_backend" not in makefile


# The tutorial.


def blocks(language: str) -> list[str]:
    """The tutorial's code blocks in a language."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## How to add a backend\n")[1]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("language", ["python", "toml"])
def test_the_tutorial_shows_what_is_in_the_example(language: str) -> None:
    source = "".join(
        path.read_text() for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".toml"}
    )

    unknown = [block for block in blocks(language) if block not in source]

    assert [block.splitlines()[0] for block in unknown] == (
        ["def _wait(self, number: int, timeout_secs: float, tag: str) -> None:"]
        if language == "python"
        else []
    )


@pytest.fixture
def without_the_example(installed: VirtualEnvironment) -> Iterator[VirtualEnvironment]:
    """The environment as a reader has it, who has not come to the end yet."""
    installed.pip("uninstall", "--yes", "barrier-file")
    yield installed
    (wheel,) = installed.path.parent.glob("barrier_file-*.whl")
    installed.pip("install", "--no-deps", "--force-reinstall", wheel)


@pytest.mark.timeout(240)
def test_the_tutorials_commands_work_in_the_order_given(
    without_the_example: VirtualEnvironment, tmp_path: Path
) -> None:
    installed = without_the_example
    scripts = installed.path / "bin"

    def run_in_environment(line: str) -> str:
        match shlex.split(line.removeprefix("$ ")):
            case ["pip", "install", "-e", project]:
                installed.pip("install", "--no-deps", "-e", tmp_path / project.partition("[")[0])
                return ""
            case ["pytest", project]:  # some of its tests: another test here runs all of them
                command = (scripts / "pytest", "-q", "-k", "no_rank_leaves", project)
                return run(*command, cwd=tmp_path).stdout
            case ["barrier", *arguments]:
                return run(scripts / "barrier", *arguments, cwd=tmp_path).stdout
            case _:
                raise AssertionError(f"what is {line!r}?")

    of_the_environment = ["$ python3 -m venv my-venv", "$ . my-venv/bin/activate"]
    commands = [line for block in blocks("console") for line in block.splitlines()]
    assert commands[:3] == [*of_the_environment, "$ pip install barrier-core"]
    outputs = [run_in_environment(line) for line in commands[3:]]

    assert "barrier-file/barrier_file/__init__.py" in outputs[0]
    assert "file" in outputs[2].split()
    assert all("2 passed" in output for output in outputs[3:])
