"""docs/guarantees.md is true: the tests it names exist, and its gaps are the backends' own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from barrier_core import BARRIER_REGISTRY, Barrier, Capability

ROOT = Path(__file__).parents[1]
SHORT = {
    "model": "tests/core/test_protocol_model.py",
    "local": "tests/core/agreement",
    "signals": "tests/core/agreement/test_signal_injection.py",
    "tcp": "plugins/tcp_store/tests",
    "dist": "plugins/dist_barrier/tests",
    "kit": "barrier_core/testing/conformance",
    "trace": "tests/core/test_frozen_trace.py",
}
NOT_DECLARED = "not declared"


def read_table() -> list[tuple[str, str, str, str]]:
    """Return guarantee, capability, backend and cell, for every cell of the table."""
    lines = (ROOT / "docs/guarantees.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    backends = [name.strip("`") for name in rows[0][2:]]
    return [
        (row[0], row[1], backend, cell)
        for row in rows[2:]
        for backend, cell in zip(backends, row[2:], strict=True)
    ]


def names_of_tests(path: Path) -> set[str]:
    """Return the names of a file's test functions."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


TABLE = read_table()


def test_every_backend_has_a_column() -> None:
    assert {backend for _, _, backend, _ in TABLE} == {"local", "tcp_store", "dist_barrier"}
    assert len(TABLE) > 40


@pytest.mark.parametrize(("guarantee", "capability", "backend", "cell"), TABLE)
def test_a_cell_names_tests_that_exist(
    guarantee: str, capability: str, backend: str, cell: str
) -> None:
    for short, name in re.findall(r"`([^`]+)::(test_[^`]+)`", cell):
        head, _, rest = short.partition("/")
        path = ROOT / SHORT[head] / rest if rest else ROOT / SHORT[head]
        assert name in names_of_tests(path), f"{guarantee}, {backend}: no {name} in {path.name}"


@pytest.mark.parametrize(("guarantee", "capability", "backend", "cell"), TABLE)
def test_a_gap_is_where_the_backend_declares_nothing(
    guarantee: str, capability: str, backend: str, cell: str
) -> None:
    backend_class = BARRIER_REGISTRY[backend]
    assert issubclass(backend_class, Barrier)
    if capability:
        declared = Capability[capability.upper()] in backend_class.capabilities
        assert declared == (cell != NOT_DECLARED), f"{guarantee}, {backend}"
    assert cell, f"{guarantee}, {backend}: say which test shows it, or why there is none"
