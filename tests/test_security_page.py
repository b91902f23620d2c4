"""docs/security.md is true: every row of its table names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_guarantees import names_of_tests

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text()
SHORT = dict(re.findall(r"`([a-z]+)`\s+is\s+`([a-z_/.]+)`", PAGE))
ROWS = [
    line.strip("|").split("|")
    for line in PAGE.partition("## Attacks")[2].splitlines()
    if line.startswith("| ") and "---" not in line and not line.startswith("| attack")
]


@pytest.mark.parametrize(("attack", "outcome", "tests"), ROWS)
def test_each_attack_has_an_outcome_that_a_test_shows(
    attack: str, outcome: str, tests: str
) -> None:
    assert outcome.strip()
    named = re.findall(r"`([a-z]+)(/[a-z_]+\.py)?::(test_[a-z_0-9]+)`", tests)
    assert named, attack
    for short, file, name in named:
        path = ROOT / (SHORT[short] + file)
        assert name in names_of_tests(path), f"{attack}: no {name} in {path.name}"
