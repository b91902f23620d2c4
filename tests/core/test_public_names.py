"""The names that users import from the package itself."""

from __future__ import annotations

import pytest

import barrier_core


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
