"""The distributions as a user gets them: built as wheels and installed with pip."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.environments import ROOT, VirtualEnvironment, run

PROJECTS = {
    "barrier-core": ROOT,
    "barrier-tcp-store": ROOT / "plugins" / "tcp_store",
    "barrier-dist-barrier": ROOT / "plugins" / "dist_barrier",
    "barrier-opentelemetry": ROOT / "plugins" / "opentelemetry",
    "barrier-report": ROOT / "plugins" / "report",
}
PLUGINS = {
    "barrier-tcp-store": "tcp_store",
    "barrier-dist-barrier": "dist_barrier",
    "barrier-opentelemetry": "opentelemetry",
}
COMMANDS = {"barrier-report": "report"}

every_distribution = pytest.mark.parametrize("distribution", PROJECTS)
every_plugin = pytest.mark.parametrize("distribution", [*PLUGINS, *COMMANDS])


@dataclass(frozen=True)
class Wheel:
    """A built wheel and what it holds."""

    path: Path

    @property
    def files(self) -> list[str]:
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def read(self, name_ends: str) -> str:
        (name,) = (name for name in self.files if name.endswith(name_ends))
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name).decode()

    @property
    def metadata(self) -> Message:
        return Parser().parsestr(self.read(".dist-info/METADATA"))

    @property
    def packages(self) -> set[str]:
        tops = {name.split("/")[0] for name in self.files}
        return {top for top in tops if not top.endswith(".dist-info")}

    def requirements(self, extra: str = "") -> dict[str, Requirement]:
        found = map(Requirement, self.metadata.get_all("Requires-Dist", []))
        return {
            requirement.name: requirement
            for requirement in found
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        }


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """Every wheel, built once from its sdist, so that the sdist is known to be complete."""
    built = {}
    for distribution, project in PROJECTS.items():
        folder = tmp_path_factory.mktemp(distribution)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project)
        (wheel,) = folder.glob("*.whl")
        built[distribution] = Wheel(wheel)
    return built


@pytest.fixture(scope="session")
def core_alone(
    wheels: dict[str, Wheel], tmp_path_factory: pytest.TempPathFactory
) -> VirtualEnvironment:
    """A fresh environment with the core's wheel and what it requires, and nothing else."""
    environment = VirtualEnvironment.create(tmp_path_factory.mktemp("installed") / "venv")
    environment.pip("install", "-c", ROOT / "constraints.txt", wheels["barrier-core"].path)
    return environment


def listed(environment: VirtualEnvironment, tmp_path: Path) -> list[str]:
    """The names of all backends and observers."""
    # In an empty folder: the tree must not be what is found.
    command = (environment.path / "bin" / "barrier", "list", "--json")
    outputs = [run(*command, *flag, cwd=tmp_path).stdout for flag in ([], ["--observers"])]
    return sorted(entry["name"] for output in outputs for entry in json.loads(output))


@every_distribution
def test_a_wheel_holds_its_one_package_and_nothing_else(
    wheels: dict[str, Wheel], distribution: str
) -> None:
    assert wheels[distribution].packages == {distribution.replace("-", "_")}


@every_distribution
def test_a_wheel_tells_type_checkers_that_it_is_typed(
    wheels: dict[str, Wheel], distribution: str
) -> None:
    assert f"{distribution.replace('-', '_')}/py.typed" in wheels[distribution].files


@every_distribution
def test_a_wheel_has_no_tests(wheels: dict[str, Wheel], distribution: str) -> None:
    parts = {part for name in wheels[distribution].files for part in name.split("/")}

    assert not {part for part in parts if part in {"tests", "conftest.py"}}
    assert not {part for part in parts if part.startswith("test_")}


@every_distribution
def test_a_wheel_carries_the_licence_of_the_repository(
    wheels: dict[str, Wheel], distribution: str
) -> None:
    wheel = wheels[distribution]

    assert wheel.metadata["License-Expression"] == "BSD-3-Clause"
    assert wheel.read("/licenses/LICENSE") == (ROOT / "LICENSE").read_text()


@every_plugin
def test_a_plugin_requires_a_core_of_at_least_a_version_that_the_built_one_has(
    wheels: dict[str, Wheel], distribution: str
) -> None:
    requirement = wheels[distribution].requirements()["barrier-core"]

    assert_is_lower_bound_met_by(requirement, wheels["barrier-core"])


@every_plugin
@pytest.mark.parametrize("is_extra_for_all", [False, True])
def test_an_extra_of_the_core_requires_the_plugin_by_a_lower_bound_that_the_built_one_meets(
    wheels: dict[str, Wheel], distribution: str, is_extra_for_all: bool
) -> None:
    extra = "all" if is_extra_for_all else distribution.removeprefix("barrier-")

    requirement = wheels["barrier-core"].requirements(extra)[distribution]

    assert_is_lower_bound_met_by(requirement, wheels[distribution])


def assert_is_lower_bound_met_by(requirement: Requirement, wheel: Wheel) -> None:
    (specifier,) = requirement.specifier
    assert specifier.operator == ">="
    assert specifier.contains(wheel.metadata["Version"])


def test_every_plugin_is_among_those_that_are_built() -> None:
    folders = {path.parent for path in ROOT.glob("plugins/*/pyproject.toml")}

    assert folders == {PROJECTS[distribution] for distribution in [*PLUGINS, *COMMANDS]}


def test_the_core_requires_neither_torch_nor_rich(wheels: dict[str, Wheel]) -> None:
    assert wheels["barrier-core"].requirements().keys().isdisjoint({"rich", "torch"})


def test_the_core_has_nothing_of_the_reports_page(wheels: dict[str, Wheel]) -> None:
    assert not [name for name in wheels["barrier-core"].files if name.endswith((".html", ".js"))]


def test_the_core_alone_is_imported_without_torch(
    core_alone: VirtualEnvironment, tmp_path: Path
) -> None:
    imported = "import barrier_core, sys; assert 'torch' not in sys.modules"

    run(core_alone.python, "-W", "error", "-c", imported, cwd=tmp_path)


def test_the_core_alone_lists_its_own_type_only(
    core_alone: VirtualEnvironment, tmp_path: Path
) -> None:
    assert listed(core_alone, tmp_path) == ["local"]


def test_the_module_is_the_same_command_as_the_script(
    core_alone: VirtualEnvironment, tmp_path: Path
) -> None:
    script = run(core_alone.path / "bin" / "barrier", "list", "--json", cwd=tmp_path)
    module = run(core_alone.python, "-m", "barrier_core", "list", "--json", cwd=tmp_path)

    assert module.stdout == script.stdout


ONE_ROUND = """
from barrier_core import create_barrier
with create_barrier("local", global_rank=0, global_world_size=1) as barrier:
    barrier.execute_barrier()
"""


def test_the_core_alone_writes_the_traces_and_barrier_report_makes_a_page_of_them(
    core_alone: VirtualEnvironment, wheels: dict[str, Wheel], tmp_path: Path
) -> None:
    barrier = core_alone.path / "bin" / "barrier"

    run("env", f"BARRIER_TRACE_DIR={tmp_path}", core_alone.python, "-c", ONE_ROUND, cwd=tmp_path)
    before = run(barrier, "--help", cwd=tmp_path).stdout
    core_alone.pip("install", "-c", ROOT / "constraints.txt", wheels["barrier-report"].path)
    after = run(barrier, "--help", cwd=tmp_path).stdout
    run(barrier, "report", tmp_path, cwd=tmp_path)
    core_alone.pip("uninstall", "--yes", "barrier-report")

    assert "pip install 'barrier-core[report]'" in before
    assert "from barrier-report 0.1.0" in after
    assert "</html>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("distribution", PLUGINS)
def test_a_plugins_name_appears_when_it_is_installed_and_goes_when_it_is_uninstalled(
    core_alone: VirtualEnvironment, wheels: dict[str, Wheel], distribution: str, tmp_path: Path
) -> None:
    # Without what it requires, such as torch: to be found, it is not imported.
    core_alone.pip("install", "--no-deps", wheels[distribution].path)
    when_installed = listed(core_alone, tmp_path)
    core_alone.pip("uninstall", "--yes", distribution)

    assert when_installed == sorted(["local", PLUGINS[distribution]])
    assert listed(core_alone, tmp_path) == ["local"]
