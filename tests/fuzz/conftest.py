"""Shows every exception that the fuzzers have seen, when the tests are over."""

from __future__ import annotations

import pytest

from tests.fuzz.anything import SEEN


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the list; with pytest-xdist it stays in the processes that have run the tests."""
    if SEEN:
        terminalreporter.section("exceptions seen")
        for name, times in SEEN.most_common():
            terminalreporter.line(f"{times:8,} {name}")
