"""Values of any type, size and encoding, and a list of every exception that they have caused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barrier_core import BarrierError

T = TypeVar("T")

_SETTINGS = settings(
    derandomize=False,
    # A busy machine is no failure of what is tested.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def fuzz(*values: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test that is run with random values; `make fuzz` runs all of them for ten minutes."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        marked: Callable[..., None] = pytest.mark.fuzz(_SETTINGS(given(*values)(test)))
        return marked

    return decorate


PASSWORD = "s3cret"[::-1]  # in no source, where hypothesis would find it and give it as a name

SEEN: Counter[str] = Counter()
"""How often each exception was raised, by its class; shown when the tests are over."""


class Hostile:
    """An object that answers no question."""

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError("no")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __float__ = __len__ = __iter__ = _refuse
    __fspath__ = _refuse


# Any character, halves of surrogates too, and now and then much of it.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(["", "none", "inf", "nan", "0", "-1", "9" * 20, "9" * 5_000, "x" * 10**5]),
    st.sampled_from(
        ["\udcff", "\0", "a..b", f"redis://:{PASSWORD}@host", "file:/", "env:X", "local"]
    ),
)
SCALARS = st.one_of(
    TEXT,
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([24, 63, 1_000, 20_000]).map(lambda bits: 2**bits),  # not all can be written
    st.floats(),
    st.binary(max_size=20),
    st.builds(Hostile),
    st.builds(object),
)
ANYTHING = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(TEXT, each, max_size=3)),
        max_leaves=5,
    ),
    st.just(int),
)


@contextmanager
def only_barrier_errors() -> Iterator[None]:
    """Let errors of this project pass as they should be; any other exception is a failure."""
    try:
        yield
    except BarrierError as error:
        SEEN[type(error).__name__] += 1
        message = str(error)
        assert len(message) < 5_000, "values are cut in messages"
        assert PASSWORD not in message


def tried(call: Callable[..., T], *args: object, **options: object) -> T | None:
    """Call something; None where it raises an error of this project."""
    with only_barrier_errors():
        return call(*args, **options)
    return None
