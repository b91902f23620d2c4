"""How the tests are spread over processes, where pytest-xdist runs them in several; and fuzzing.

The tests of one file run in one process, one after another: they share fixtures. So do all tests
that share the rank processes which have imported torch, since those are expensive to start.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

FUZZ_SECS = float(os.environ.get("FUZZ_SECONDS", "0"))
"""For how long to run the tests over and over, each time with other random values; 0: once."""

SHARE_TORCH_RANKS = (
    "examples/sharded_checkpoint/test_sharded_checkpoint.py",
    "examples/torch_checkpointing_client/",
    "plugins/dist_barrier/",
    "tests/test_report.py",
    "tests/test_seed_rows.py",
)
LONGEST_FIRST = (
    "tests/test_other_pythons.py",
    "torch ranks",
    "plugins/tcp_store/tests/test_two_hosts.py",
    "tests/core/test_protocol_model.py",
    "tests/test_benchmarks.py",
    "tests/test_readme.py",
    "tests/test_new_plugin.py",
    "plugins/tcp_store/tests/test_rounds.py",
    "plugins/tcp_store/tests/test_failures.py",
    "plugins/tcp_store/tests/test_forks.py",
    "tests/test_compat.py",
)
"""Groups that take more than half a minute: the others fill up the time beside them."""


def group_of(file: str) -> str:
    """Return the name of the files whose tests one process must run, given one of them."""
    return "torch ranks" if file.startswith(SHARE_TORCH_RANKS) else file


def file_of(node_id: str) -> str:
    """Return the path of a test's file, from the root."""
    return node_id.partition("::")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put those tests first that take long, where they are spread over processes."""
    if hasattr(config, "workerinput"):
        order = {name: place for place, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: order.get(group_of(file_of(item.nodeid)), len(order)))


@pytest.hookimpl(optionalhook=True)  # other Pythons have no pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread the tests by their group, in the order in which they are collected."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # the same: it is untyped
        def _split_scope(self, nodeid: str) -> str:
            return group_of(file_of(nodeid))

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests again and again where `make fuzz` says for how long, until one fails."""
    if not FUZZ_SECS or session.config.option.collectonly:
        return None
    deadline = time.monotonic() + FUZZ_SECS
    while time.monotonic() < deadline:
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                raise session.Failed("fuzzing stops at the first failure")
    return True
