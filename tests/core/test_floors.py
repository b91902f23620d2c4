"""The architecture: each floor of the core imports only the floors below it, none imports torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import barrier_core

PACKAGE = Path(barrier_core.__file__).parent

# From the bottom. Modules of one floor may import each other.
FLOORS = (
    {"errors", "ranks", "verdict"},
    {"hookspecs"},  # below the contract: every barrier tells the observers
    {"contract"},
    {"known_backends", "discovery", "observer_loading", "registry", "arguments", "config"},
    {"agreement"},
    {"observers"},
    {"testing"},
    {"cli"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# The package's front and back doors.
EXEMPT = {"__init__", "__main__"}


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the core, with the room it belongs to."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it, other than for the type checker alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            # `from barrier_core import registry` may name a module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def rooms_imported_by(path: Path) -> set[str]:
    parts = [module.split(".") for module in imports_of(path)]
    return {part[1] for part in parts if part[0] == "barrier_core" and len(part) > 1}


@pytest.mark.parametrize(
    ("room", "path"),
    [
        pytest.param(room, path, id=str(path.relative_to(PACKAGE)))
        for room, path in sources()
        if room not in EXEMPT
    ],
)
def test_a_floor_imports_only_floors_below_it(room: str, path: Path) -> None:
    assert room in FLOOR_OF, f"{room} is on no floor: add it to FLOORS"

    above = {
        other
        for other in rooms_imported_by(path)
        if FLOOR_OF.get(other, len(FLOORS)) > FLOOR_OF[room]  # the front door is above all
    }

    assert above == set()


def test_nothing_in_the_core_imports_torch() -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for _, path in sources()
        if any(module.split(".")[0] == "torch" for module in imports_of(path))
    }

    assert importers == set()


def importers_of(distribution: str) -> set[str]:
    """The rooms that import it."""
    return {
        room
        for room, path in sources()
        if any(module.split(".")[0] == distribution for module in imports_of(path))
    }


def test_click_is_for_the_command_only() -> None:
    assert importers_of("click") == {"cli"}


def test_nothing_in_the_core_imports_rich() -> None:
    assert importers_of("rich") == set()


def test_importing_the_core_imports_no_torch_no_command_and_no_backend() -> None:
    unwanted = ["torch", "click", "rich", "barrier_core.cli", "barrier_core.agreement"]
    script = f"import sys, barrier_core; print([m for m in {unwanted} if m in sys.modules])"

    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert output.strip() == "[]"


def test_every_public_name_exists() -> None:
    missing = [name for name in barrier_core.__all__ if not hasattr(barrier_core, name)]

    assert missing == []


def test_the_public_names_are_sorted_and_given_once() -> None:
    # Constants first, as the linter has it.
    in_order = sorted(set(barrier_core.__all__), key=lambda name: (not name.isupper(), name))

    assert barrier_core.__all__ == in_order


def test_a_star_import_brings_the_public_names() -> None:
    namespace: dict[str, object] = {}

    exec("from barrier_core import *", namespace)

    assert set(barrier_core.__all__) <= namespace.keys()


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'barrier_core' has no attribute 'Barier'"):
        _ = barrier_core.Barier
