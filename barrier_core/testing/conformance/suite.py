"""What all standard tests stand on: what an author supplies, and the fixtures made of it."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, TypeVar

import pytest

from barrier_core.capability import Capability
from barrier_core.contract import Barrier
from barrier_core.testing.conformance.job import Job
from barrier_core.testing.rank_processes import RankProcesses
from barrier_core.testing.rank_spec import Factory, MakeBarrier
from barrier_core.testing.rank_threads import RankThreads
from barrier_core.testing.ranks import Ranks

SHORT_SECS = 0.3
"""A time limit that is meant to be reached."""
_SEED = int(os.environ.get("BARRIER_CONTRACT_SEED") or random.SystemRandom().randrange(10**6))

_Test = TypeVar("_Test", bound=Callable[..., None])
_numbers = itertools.count(1)


def needs(*capabilities: Capability) -> Callable[[_Test], _Test]:
    """Mark a test as one of these capabilities."""

    def mark(test: _Test) -> _Test:
        test._needs = capabilities  # type: ignore[attr-defined]
        return test

    return mark


def processes_only(test: _Test) -> _Test:
    """Mark a test as one that kills, stops or interrupts a rank."""
    test._processes_only = True  # type: ignore[attr-defined]
    return test


class Suite:
    """What an author of a backend sets and supplies, and the fixtures that the tests use."""

    backend: ClassVar[type[Barrier]]
    """The class under test."""
    ranks_are: ClassVar[Literal["threads", "processes"]]
    """What runs a rank. Processes, unless the backend is for threads: only they can be killed."""
    world_size: ClassVar[int] = 4
    """Number of ranks; three or more."""
    patience_secs: ClassVar[float] = 20.0
    """How long a rank may take for what should be quick, before the test fails."""
    overrides: ClassVar[Mapping[str, str]] = {}
    """Why the class replaces a standard test, by the name of the test."""
    left_out: ClassVar[Mapping[str, str]] = {}
    """Why a standard test cannot be run, by the name of the test; it is reported as skipped."""

    # What the author supplies.

    @pytest.fixture
    def make_barrier(self) -> MakeBarrier:
        """What makes a rank's barrier; picklable where ranks are processes."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture make_barrier")

    @pytest.fixture
    def count_keys(self) -> Callable[[], int] | None:
        """What counts the keys of the store; None where there is nothing to count."""
        return None

    @pytest.fixture
    def empty_store(self) -> Callable[[], object] | None:
        """What has the store lose all it holds, as a server does that is started anew.

        ``FLUSHALL`` in Redis, removing what a folder holds; None where there is no store.
        """
        return None

    # What the tests use.

    @pytest.fixture(autouse=True)
    def _only_what_is_declared(self, request: pytest.FixtureRequest) -> None:
        function = request.function
        undeclared = [
            name
            for capability in getattr(function, "_needs", ())
            for name in capability.names
            if capability not in self.backend.capabilities
        ]
        if undeclared:
            pytest.skip(f"not declared: {', '.join(undeclared)}")
        if getattr(function, "_processes_only", False) and self.ranks_are == "threads":
            pytest.skip(
                "not checked: ranks are threads, which cannot be killed, stopped or interrupted"
            )

    @pytest.fixture
    def ranks(self, request: pytest.FixtureRequest) -> Ranks:
        """The class's ranks: started for its first test, ended after its last."""
        cls = type(self)
        pool: Ranks | None = cls.__dict__.get("_pool")
        if pool is None:
            pool = (RankProcesses if cls.ranks_are == "processes" else RankThreads)(cls.world_size)
            cls._pool = pool  # type: ignore[attr-defined]
            node = request.node.getparent(pytest.Class)

            def end() -> None:
                del cls._pool  # type: ignore[attr-defined]
                pool.close()

            node.addfinalizer(end)
        pool.refresh()
        return pool

    @pytest.fixture
    def job(
        self, request: pytest.FixtureRequest, ranks: Ranks, make_barrier: MakeBarrier
    ) -> Iterator[Job]:
        """The ranks, and a barrier of its own for this test."""
        job = Job(
            backend=f"{self.backend.__name__} ({self.backend.barrier_type})",
            guarantee=" ".join((request.function.__doc__ or request.function.__name__).split()),
            ranks=ranks,
            world_size=self.world_size,
            factory=Factory(make_barrier) if self.ranks_are == "processes" else make_barrier,
            name=f"contract-{os.getpid()}-{next(_numbers)}",
            patience_secs=self.patience_secs,
            seed=f"{_SEED} {request.node.name}",
        )
        yield job
        job.leave()
