"""The layout: what may import what, in the core and in each plugin, and how long a file may be.

Every import counts: at the top of a module, in a function, and for the type checker alone. Files
are parsed, not imported, so the plugins need not be installed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import barrier_core

ROOT = Path(__file__).parents[2]
CORE = Path(barrier_core.__file__).parent
PLUGINS = [
    *sorted(ROOT.glob("plugins/*/barrier_*")),
    *sorted(ROOT.glob("examples/*/barrier_*")),
]
DISTRIBUTIONS = [pytest.param(package, id=package.name) for package in (CORE, *PLUGINS)]

# From the bottom. A room imports only rooms of the floors below it, and its own modules.
FLOORS = (
    {"capability", "printable", "tags", "this_process", "verdict", "version"},
    {"errors"},
    {"launcher", "options", "turn"},
    {"hooks"},  # below the contract: every barrier tells the observers
    {"contract"},
    {"discovery"},
    {"config"},
    {"agreement"},
    {"backends"},
    {"observers"},
    {"plugin_api"},
    {"testing"},
    {"cli"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# The package's front and back doors are above all floors: nothing in the core may import them.
DOORS = {"__init__", "__main__"}

LONGEST_FILE = 400  # lines
SHARED_FILE_NAMES = {"__init__.py", "__main__.py", "conftest.py"}


def files_of(package: Path) -> dict[str, Path]:
    """Every file of a package by its path from where the package is."""
    return {
        path.relative_to(package.parent).as_posix(): path for path in sorted(package.rglob("*.py"))
    }


def sources(package: Path) -> dict[str, Path]:
    """Every module of a package by its full name."""
    return {
        file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): path
        for file, path in files_of(package).items()
    }


def names_imported_by(path: Path) -> Iterator[str]:
    """What a file imports, wherever it does; a module, or a name in one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported_by(path: Path, modules: dict[str, Path]) -> set[str]:
    """Which of some modules a file imports.

    A package's ``__init__`` counts where a name is taken from it. That Python runs it before it
    imports a module of the package is no import that somebody wrote.
    """
    imported = set()
    for name in names_imported_by(path):
        # `from a.b import c`: the module a.b.c if there is one, or else a.b.
        candidates = (name, name.rpartition(".")[0])
        imported |= set([each for each in candidates if each in modules][:1])
    return imported


def circle_in(package: Path) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; none if empty."""
    modules = sources(package)
    graph = {name: modules_imported_by(path, modules) for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def room_of(module: str) -> str:
    """The room that a module of the core is in."""
    return module.split(".")[1] if "." in module else "__init__"


MODULES = sources(CORE)
IN_ROOMS = [
    pytest.param(name, id=name.partition(".")[2]) for name in MODULES if room_of(name) not in DOORS
]


@pytest.mark.parametrize("module", IN_ROOMS)
def test_a_floor_imports_only_floors_below_it(module: str) -> None:
    room = room_of(module)
    assert room in FLOOR_OF, f"{room} is on no floor: add it to FLOORS"

    not_below = {
        other
        for other in map(room_of, modules_imported_by(MODULES[module], MODULES))
        if other != room and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]
    }

    assert not_below == set()


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_no_modules_import_each_other_in_a_circle(package: Path) -> None:
    assert circle_in(package) == []


@pytest.mark.parametrize(
    "hidden",
    [
        "from package.a import A",
        "if TYPE_CHECKING:\n    import package.a",
        "def f():\n    import package.a",
    ],
    ids=["at the top", "for the type checker", "in a function"],
)
def test_a_circle_is_found_wherever_it_is_hidden(tmp_path: Path, hidden: str) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from package.a import A\n")
    (package / "a.py").write_text("from package.inner import b\nA = b\n")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "b.py").write_text("import json\n")
    assert circle_in(package) == []

    (package / "inner" / "b.py").write_text(f"{hidden}\n")

    assert set(circle_in(package)) == {"package.a", "package.inner.b"}


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_no_two_files_of_a_distribution_share_a_name(package: Path) -> None:
    files = files_of(package)
    count = Counter(path.name for path in files.values() if path.name not in SHARED_FILE_NAMES)

    shared = {file for file, path in files.items() if count[path.name] > 1}

    assert shared == set()


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_no_file_of_a_distribution_is_too_long(package: Path) -> None:
    files = files_of(package)
    lengths = {file: len(path.read_text().splitlines()) for file, path in files.items()}

    too_long = {file for file, length in lengths.items() if length > LONGEST_FILE}

    assert too_long == set()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=file)
        for package in PLUGINS
        for file, path in files_of(package).items()
    ],
)
def test_a_plugin_imports_only_what_the_core_offers_to_plugins(path: Path) -> None:
    imported = {name for name in names_imported_by(path) if name.split(".")[0] == "barrier_core"}

    assert {
        name for name in imported if not f"{name}.".startswith("barrier_core.plugin_api.")
    } == set()


def importers_of(*packages: str) -> set[str]:
    """The rooms of the core that import one of some packages."""
    return {
        room_of(module)
        for module, path in MODULES.items()
        if any(name.split(".")[0] in packages for name in names_imported_by(path))
    }


def test_nothing_in_the_core_imports_torch() -> None:
    assert importers_of("torch") == set()


def test_click_is_for_the_command_only_and_rich_for_nothing() -> None:
    assert importers_of("click") == {"cli"}
    assert importers_of("rich") == set()


def test_importing_the_core_imports_no_torch_no_command_and_no_backend() -> None:
    unwanted = ["torch", "click", "rich", "barrier_core.cli", "barrier_core.agreement"]
    script = f"import sys, barrier_core; print([m for m in {unwanted} if m in sys.modules])"

    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert output.strip() == "[]"
