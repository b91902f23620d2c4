"""A job for every test, whose ranks are threads on the store of this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.local_ranks import LocalJob

_NUMBERS = itertools.count()


@pytest.fixture
def job() -> Iterator[LocalJob]:
    job = LocalJob(f"job{next(_NUMBERS)}x")
    yield job
    job.close()
