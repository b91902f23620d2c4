"""How the tests are spread over processes, where pytest-xdist runs them in several.

The tests of one file run in one process, one after another: they share fixtures. So do all tests
that share the rank processes which have imported torch, since those are expensive to start.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent

SHARE_TORCH_RANKS = (
    "examples/sharded_checkpoint/test_sharded_checkpoint.py",
    "examples/torch_checkpointing_client/",
    "plugins/dist_barrier/",
    "tests/test_report.py",
    "tests/test_seed_rows.py",
)
LONGEST_FIRST = (
    "torch ranks",
    "plugins/tcp_store/tests/test_two_hosts.py",
    "tests/test_readme.py",
    "tests/test_new_plugin.py",
    "plugins/tcp_store/tests/test_rounds.py",
    "plugins/tcp_store/tests/test_failures.py",
    "tests/test_compat.py",
)
"""Groups that take more than half a minute: the others fill up the time beside them."""


def group_of(item: pytest.Item) -> str:
    """Return the name of the tests among which one must be run, in one process."""
    mark = item.get_closest_marker("xdist_group")
    if mark is not None:
        return str(mark.kwargs.get("name") or mark.args[0])
    file = item.path.relative_to(ROOT).as_posix()
    return "torch ranks" if file.startswith(SHARE_TORCH_RANKS) else file


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group the tests, and put those first that take long."""
    if config.getoption("dist", "no") != "loadgroup" and not hasattr(config, "workerinput"):
        return
    groups = {item: group_of(item) for item in items}
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(groups[item], len(order)))
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
