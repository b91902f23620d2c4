"""The conformance suite: what every backend must do, as a pytest class to derive from.

::

    class TestMyBarrier(BarrierContract):
        backend = MyBarrier
        ranks_are = "processes"

        @pytest.fixture
        def make_barrier(self) -> MakeBarrier:
            return make_my_barrier


    def make_my_barrier(place: Place) -> MyBarrier:
        return MyBarrier(place.rank, place.world_size, place.timeout_secs)

Tests of what the backend does not declare are skipped as ``not declared``. A class that replaces a
standard test must say why in ``overrides``, one that leaves a test out in ``left_out``: by the name
of the test, as in ``left_out: ClassVar = {"test_...": "the reason"}``.
"""

from __future__ import annotations

import inspect
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Literal, TypeVar

import pytest

from barrier_core.contract import Barrier, Capability
from barrier_core.errors import (
    BarrierConfigError,
    BarrierTimeoutError,
    BarrierUsageError,
    BrokenBarrierError,
    RankConflictError,
)
from barrier_core.testing import rank_side
from barrier_core.testing.job import Arrivals, Job, Ranks
from barrier_core.testing.processes import RankProcesses, wait_until
from barrier_core.testing.rank_side import Factory, MakeBarrier, Place
from barrier_core.testing.threads import RankThreads

__all__ = ["BarrierContract", "MakeBarrier", "Place"]

_SHORT_SECS = 0.3
"""A time limit that is meant to be reached."""
_MANY_ROUNDS = 400
"""Between two counts of keys. A store that leaks keeps one key per round at least."""
_SEED = int(os.environ.get("BARRIER_CONTRACT_SEED") or random.SystemRandom().randrange(10**6))

_Test = TypeVar("_Test", bound=Callable[..., None])
_numbers = itertools.count(1)


def _needs(*capabilities: Capability) -> Callable[[_Test], _Test]:
    """Mark a test as one of these capabilities."""

    def mark(test: _Test) -> _Test:
        test._needs = capabilities  # type: ignore[attr-defined]
        return test

    return mark


def _processes_only(test: _Test) -> _Test:
    """Mark a test as one that kills or stops a rank."""
    test._processes_only = True  # type: ignore[attr-defined]
    return test


class BarrierContract:
    """The standard tests. Derive a class ``Test...`` for your backend; see the module's text."""

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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _guard(cls)

    # What the author supplies.

    @pytest.fixture
    def make_barrier(self) -> MakeBarrier:
        """What makes a rank's barrier; picklable where ranks are processes."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture make_barrier")

    @pytest.fixture
    def count_keys(self) -> Callable[[], int] | None:
        """What counts the keys of the store; None where there is nothing to count."""
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
            pytest.skip("not checked: ranks are threads, which cannot be killed or stopped")

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

    # The class itself.

    def test_the_class_says_what_it_is(self) -> None:
        """A backend names its type and annotates its options, so that config can be checked."""
        cls = self.backend
        problems = []
        if not isinstance(cls, type) or not issubclass(cls, Barrier):
            problems.append("it does not derive from barrier_core.Barrier")
        elif inspect.isabstract(cls):
            problems.append("it is abstract: it has no _wait")
        if not getattr(cls, "barrier_type", ""):
            problems.append("barrier_type is not set")
        if not isinstance(getattr(cls, "capabilities", None), Capability):
            problems.append("capabilities is not a Capability")
        problems += [
            f"the constructor's {name} has no annotation"
            for name, parameter in list(inspect.signature(cls).parameters.items())
            if parameter.annotation is parameter.empty
        ]
        if problems:
            pytest.fail(f"{cls.__name__}: " + "; ".join(problems), pytrace=False)

    def test_the_class_under_test_is_the_one_that_is_made(self, job: Job) -> None:
        """The standard tests run against the class that they are said to run against."""
        for cls in job.join():
            job.check(cls is self.backend, f"make_barrier made a {cls}, backend is {self.backend}")

    # Safety and reuse: always.

    def test_no_rank_leaves_before_every_rank_has_entered(self, job: Job) -> None:
        """No rank leaves a round before every rank has entered it."""
        job.join()
        job.pass_through(job.arrive(rounds=30, max_delay_secs=0.01))

    def test_no_rank_leaves_without_the_last_one(self, job: Job) -> None:
        """However late the last rank is, the others wait for it; whichever rank it is."""
        job.join()
        for late in job.everyone:
            early = job.arrive([rank for rank in job.everyone if rank != late])
            job.pass_through(early | {late: job.start(late, rank_side.visit, [0.05], None, "")})

    def test_rounds_can_be_repeated_without_limit(self, job: Job) -> None:
        """A barrier can be used again and again, as fast as the ranks can."""
        job.join()
        visits = job.pass_through(job.arrive(rounds=100))
        for rank, seen in visits.items():
            numbers = [visit.round for visit in seen]
            job.check(
                numbers == list(range(1, 101)), f"rank {rank} counted its rounds as {numbers}"
            )

    def test_a_rank_alone_in_the_world_passes(self, job: Job) -> None:
        """With a world size of 1 there is nobody to wait for."""
        job.join([0], world_size=1)
        job.pass_through(job.arrive([0], rounds=3))

    # Deadlines.

    @_needs(Capability.TIMEOUT)
    @pytest.mark.parametrize("limit_of", ["the call", "the barrier"])
    def test_a_wait_ends_when_its_time_is_up(self, job: Job, limit_of: str) -> None:
        """``timeout_secs`` ends a wait, neither sooner nor much later, with an error."""
        if limit_of == "the call":
            job.join()
            arrivals = job.arrive(job.but_last, timeout_secs=_SHORT_SECS)
        else:
            job.join(timeout_secs=_SHORT_SECS)
            arrivals = job.arrive(job.but_last)
        visits = [seen[-1] for seen in job.visits(arrivals).values()]
        began = min(visit.entered for visit in visits)
        for visit in visits:
            job.check(visit.error, f"rank {visit.rank} passed without rank {job.last}")
            took = visit.left - began
            job.check(took > 0.8 * _SHORT_SECS, f"rank {visit.rank} gave up after {took:.2f} s")
        job.check(
            any(isinstance(visit.error, BarrierTimeoutError) for visit in visits),
            "no rank raised a BarrierTimeoutError",
        )

    @_needs(Capability.TIMEOUT)
    def test_a_broken_barrier_stays_broken(self, job: Job) -> None:
        """After a round that did not pass, no other passes, and the same verdict is raised."""
        job.join()
        before = job.verdicts(job.arrive(job.but_last, timeout_secs=_SHORT_SECS))
        after = job.verdicts(job.arrive(job.but_last))
        job.check(before == after, f"first {before}, then {after}")

    # Names.

    @_needs(Capability.NAMES, Capability.TIMEOUT)
    def test_a_failed_round_names_the_missing_ranks(self, job: Job) -> None:
        """Every rank is told which ranks are missing, on which host and with which pid."""
        job.join()
        missing = [1, job.last]
        present = [rank for rank in job.everyone if rank not in missing]
        verdicts = job.verdicts(job.arrive(present, timeout_secs=_SHORT_SECS, tag="save step=1"))
        for rank, verdict in verdicts.items():
            named = [status.rank for status in verdict.missing]
            job.check(named == missing, f"rank {rank} names {named} as missing, not {missing}")
            for status in verdict.missing:
                job.check(
                    (status.host, status.pid) == job.identities[status.rank],
                    f"rank {rank} says {status.host}, pid {status.pid} of rank {status.rank}, "
                    f"which is {job.identities[status.rank]}",
                )
            job.check(
                (verdict.tag, verdict.world_size) == ("save step=1", self.world_size),
                f"rank {rank} says tag {verdict.tag!r}, world size {verdict.world_size}",
            )

    @_needs(Capability.NAMES, Capability.TIMEOUT)
    def test_a_rank_that_has_not_joined_is_named(self, job: Job) -> None:
        """A rank that never started is missing, too."""
        calls = {rank: job.start_join(rank, job.place(rank)) for rank in job.but_last}
        if any(job.error_of(rank, call, "making its barrier") for rank, call in calls.items()):
            pytest.skip("not checked: a barrier of this backend needs all ranks to be made")
        verdicts = job.verdicts(job.arrive(job.but_last, timeout_secs=_SHORT_SECS))
        for rank, verdict in verdicts.items():
            named = [status.rank for status in verdict.missing]
            job.check(named == [job.last], f"rank {rank} names {named}, not {[job.last]}")

    # One verdict.

    @_needs(Capability.ONE_VERDICT, Capability.TIMEOUT)
    def test_every_rank_raises_the_same_verdict(self, job: Job) -> None:
        """A round is decided once: every rank raises that verdict, a late one on arrival."""
        job.join()
        arrivals: Arrivals = {}
        for rank in job.but_last:
            arrivals |= job.arrive([rank], timeout_secs=_SHORT_SECS + 0.1 * rank)
        verdicts = job.verdicts(arrivals)
        verdicts |= job.verdicts(job.arrive([job.last]))
        job.check_one_verdict(verdicts)

    @_needs(Capability.ONE_VERDICT, Capability.TIMEOUT)
    def test_a_rank_that_comes_as_time_runs_out_shares_the_outcome(self, job: Job) -> None:
        """A round passes for all ranks or for none, also if the last comes at the deadline."""
        limit = 0.2
        for attempt in range(3):
            name = f"{job.name}-{attempt}"
            job.join(name=name)
            slot = job.slot(name)
            start = time.monotonic() + 0.05
            late_by = limit + job.random.uniform(-0.02, 0.02)
            arrivals = {
                rank: job.ranks.start(
                    rank,
                    rank_side.visit_after,
                    slot,
                    start + (late_by if rank == job.last else 0.0),
                    limit,
                )
                for rank in job.everyone
            }
            errors = {rank: seen[-1].error for rank, seen in job.visits(arrivals).items()}
            passed = [rank for rank, error in errors.items() if error is None]
            if passed and len(passed) < self.world_size:
                job.violated(f"the round passed for ranks {passed} only")
            if not passed:
                job.the_verdict(arrivals)

    # Abort and phase.

    @_needs(Capability.ABORT)
    def test_an_abort_reaches_every_rank_that_waits(self, job: Job) -> None:
        """``abort`` breaks the round under way on every rank, with its reason and its rank."""
        job.join()
        arrivals = job.arrive(job.but_last)
        job.run(job.last, rank_side.call, "abort", "disk full on /ckpt")
        self._check_aborted(job, arrivals | job.arrive([job.last]), "disk full on /ckpt")

    @_needs(Capability.ABORT)
    def test_an_abort_breaks_the_round_that_others_come_to_later(self, job: Job) -> None:
        """``abort`` between rounds breaks the next one."""
        job.join()
        job.pass_through(job.arrive())
        job.run(0, rank_side.call, "abort", "out of memory")
        job.run(0, rank_side.call, "abort", "a second time, which does nothing")
        self._check_aborted(job, job.arrive(), "out of memory")

    @_needs(Capability.ABORT)
    def test_another_thread_of_a_rank_that_waits_can_abort(self, job: Job) -> None:
        """``abort`` may be called while this rank itself waits, by another of its threads."""
        job.join()
        arrivals = job.arrive(job.but_last[1:])
        arrivals[0] = job.start(0, rank_side.visit_while_a_thread_aborts, "told to stop")
        self._check_aborted(job, arrivals, "told to stop")

    def _check_aborted(self, job: Job, arrivals: Arrivals, reason: str) -> None:
        for rank, seen in job.visits(arrivals).items():
            if not isinstance(seen[-1].error, BrokenBarrierError):
                job.violated(f"rank {rank} did not raise a BrokenBarrierError", seen[-1].error)
            verdict = seen[-1].error.verdict
            job.check(
                verdict.kind == "abort" and reason in verdict.reason,
                f"rank {rank} was told {verdict.kind}: {verdict.reason!r}, not abort: {reason!r}",
            )

    @_needs(Capability.ABORT)
    def test_a_phase_ends_in_the_barrier(self, job: Job) -> None:
        """Leaving a phase normally arrives and waits for the others."""
        job.join()
        job.pass_through(
            {rank: job.start(rank, rank_side.go_through_phase, "save", "") for rank in job.everyone}
        )

    @_needs(Capability.ABORT)
    def test_leaving_a_phase_by_an_exception_aborts(self, job: Job) -> None:
        """A rank that fails in a phase keeps its exception, and tells it to the others."""
        job.join()
        arrivals = job.arrive(job.but_last, tag="save")
        failing = job.visits(
            {job.last: job.start(job.last, rank_side.go_through_phase, "save", "disk full")}
        )
        own = failing[job.last][-1].error
        job.check(isinstance(own, OSError), f"rank {job.last} raised {own!r}, not its OSError")
        self._check_aborted(job, arrivals, "disk full")

    # Tags.

    @_needs(Capability.TAGS)
    def test_ranks_with_different_tags_do_not_pass_each_other(self, job: Job) -> None:
        """Ranks that come with different tags are told which rank came with which."""
        job.join()
        arrivals = job.arrive(job.but_last, tag="save step=1") | job.arrive(
            [job.last], tag="load step=1"
        )
        for rank, verdict in job.verdicts(arrivals).items():
            job.check(verdict.kind == "mismatch", f"rank {rank} was told {verdict.kind}")
            told = set(verdict.tags or {})
            job.check(
                told == {"save step=1", "load step=1"}, f"rank {rank} was told the tags {told}"
            )

    def test_any_text_can_be_a_tag(self, job: Job) -> None:
        """A tag may hold any characters; one of more than 500 bytes is refused."""
        job.join()
        error = job.refusal(0, rank_side.call, "execute_barrier", None, "x" * 501)
        if not isinstance(error, BarrierConfigError):
            job.violated("a tag of 501 bytes is not a BarrierConfigError", error)
        for tag in ("save step=1200", "a/b%2F?\\ \"'", "två\nlines\t\u2603 \x00", "x" * 500):
            job.pass_through(job.arrive(tag=tag))

    # Progress.

    @_needs(Capability.PROGRESS, Capability.NAMES, Capability.TIMEOUT)
    def test_progress_reaches_the_ranks_that_wait(self, job: Job) -> None:
        """What a late rank has reported is told to the others when the round fails."""
        job.join()
        job.run(job.last, rank_side.call, "report_progress", "shard 12/40")
        verdicts = job.verdicts(job.arrive(job.but_last, timeout_secs=1.0))
        for rank, verdict in verdicts.items():
            told = [status.progress for status in verdict.missing]
            job.check(told == ["shard 12/40"], f"rank {rank} was told the progress {told}")

    # Liveness.

    @_needs(Capability.LIVENESS)
    @_processes_only
    def test_a_killed_rank_breaks_the_round(self, job: Job) -> None:
        """A rank whose process dies breaks the round at once, and is called dead."""
        job.join()
        arrivals = job.arrive(job.but_last)
        _processes(job).kill(job.last)
        for rank, verdict in job.verdicts(arrivals).items():
            dead = [status.rank for status in verdict.missing if status.state == "dead"]
            job.check(
                (verdict.kind, dead) == ("dead", [job.last]),
                f"rank {rank} was told {verdict.kind}, and that the dead are {dead}",
            )

    @_needs(Capability.LIVENESS, Capability.TIMEOUT)
    @_processes_only
    def test_a_stopped_rank_is_late_but_not_dead(self, job: Job) -> None:
        """Silence is not death: a rank that stands still may go on."""
        job.join()
        _processes(job).stop(job.last)
        for rank, verdict in job.verdicts(job.arrive(job.but_last, timeout_secs=1.0)).items():
            states = [status.state for status in verdict.missing]
            job.check(
                verdict.kind == "timeout" and "dead" not in states,
                f"rank {rank} was told {verdict.kind}, and {states} of the stopped rank",
            )

    @_needs(Capability.LIVENESS)
    def test_a_rank_that_has_closed_its_barrier_breaks_the_round(self, job: Job) -> None:
        """Nobody waits for a rank that has left for good."""
        job.join()
        arrivals = job.arrive(job.but_last)
        leaving = job.start(job.last, rank_side.call, "close")
        for rank, verdict in job.verdicts(arrivals).items():
            job.check(verdict.kind == "dead", f"rank {rank} was told {verdict.kind}")
        job.leave()
        job.check(leaving.done(), "the rank has not left")

    # Generations.

    @_needs(Capability.GENERATIONS, Capability.TIMEOUT)
    def test_a_restarted_job_sees_nothing_of_the_one_before(self, job: Job) -> None:
        """In a new generation the arrivals and verdicts of the one before do not count."""
        job.join()
        job.pass_through(job.arrive())
        job.verdicts(job.arrive(job.but_last, timeout_secs=_SHORT_SECS))
        job.join(generation="1")
        slot = job.slot(generation="1")
        job.pass_through(job.arrive(rounds=5, max_delay_secs=0.02, slot=slot))

    @_needs(Capability.GENERATIONS, Capability.TIMEOUT)
    def test_barriers_with_different_names_never_meet(self, job: Job) -> None:
        """Ranks at one barrier do not count at another, however similar the names are."""
        name, other = f"{job.name}/1", f"{job.name}/1/1"
        job.join(name=name)
        job.join(name=other)
        arrivals = job.arrive(job.but_last, timeout_secs=_SHORT_SECS, slot=job.slot(name))
        arrivals |= job.arrive([job.last], timeout_secs=_SHORT_SECS, slot=job.slot(other))
        job.verdicts(arrivals)

    @_needs(Capability.GENERATIONS)
    def test_a_rank_that_is_taken_is_refused(self, job: Job) -> None:
        """Of two that claim one rank, one is told so, and says it to the others."""
        job.join()
        error = self._join_error(job, 1, job.place(0))
        if not isinstance(error, RankConflictError):
            job.violated("a second rank 0 was not refused by a RankConflictError", error)

    @_needs(Capability.GENERATIONS)
    def test_a_rank_with_another_world_size_is_refused(self, job: Job) -> None:
        """Ranks that disagree about the world size are told so when they start."""
        calls = {0: job.start_join(0, job.place(0))}
        calls[1] = job.start_join(1, job.place(1, world_size=self.world_size + 1))
        errors = [job.error_of(rank, call, "joining") for rank, call in calls.items()]
        if not any(isinstance(error, RankConflictError) for error in errors):
            job.violated(f"no RankConflictError on either rank: {errors}")

    @_needs(Capability.GENERATIONS)
    @_processes_only
    def test_a_rank_that_comes_back_alone_is_refused(self, job: Job) -> None:
        """A rank that was started again, without the others, must not corrupt the count."""
        job.join()
        _processes(job).replace(job.last)
        error = self._join_error(job, job.last, job.place(job.last))
        if not isinstance(error, RankConflictError):
            job.violated(f"rank {job.last} was not refused by a RankConflictError", error)

    def _join_error(self, job: Job, worker: int, place: Place) -> BaseException | None:
        return job.error_of(worker, job.start_join(worker, place), "joining")

    # Bounded state.

    @_needs(Capability.BOUNDED_STATE)
    def test_the_number_of_keys_does_not_grow_with_the_rounds(
        self, job: Job, count_keys: Callable[[], int] | None
    ) -> None:
        """The store holds a bounded number of keys however many rounds have run."""
        if count_keys is None:
            pytest.skip("not checked: there is no fixture count_keys")
        job.join()
        job.pass_through(job.arrive(rounds=_MANY_ROUNDS // 2))
        before = count_keys()
        job.pass_through(job.arrive(rounds=_MANY_ROUNDS))
        self._check_growth(job, count_keys, before, _MANY_ROUNDS, f"{_MANY_ROUNDS} rounds")

    @_needs(Capability.BOUNDED_STATE, Capability.GENERATIONS)
    def test_the_number_of_keys_does_not_grow_with_the_generations(
        self, job: Job, count_keys: Callable[[], int] | None
    ) -> None:
        """The store holds a bounded number of keys however often the job was restarted."""
        if count_keys is None:
            pytest.skip("not checked: there is no fixture count_keys")
        before = 0
        for generation in range(12):
            if generation == 2:
                before = count_keys()
            job.join(generation=str(generation))
            job.pass_through(job.arrive(slot=job.slot(generation=str(generation))))
            job.leave()
        self._check_growth(job, count_keys, before, 10, "10 generations")

    def _check_growth(
        self, job: Job, count_keys: Callable[[], int], before: int, too_many: int, what: str
    ) -> None:
        def growth() -> int:
            return count_keys() - before

        with suppress(TimeoutError):
            # What is outdated may be removed a little later.
            wait_until(lambda: growth() < too_many, "keys are removed", min(self.patience_secs, 5))
            return
        job.violated(f"{what} have left {growth()} keys more than there were before ({before})")

    # Close.

    def test_a_closed_barrier_refuses_to_go_on(self, job: Job) -> None:
        """``close`` is for good: a second one does nothing, any other call is told so."""
        job.join()
        job.pass_through(job.arrive())
        closing = {rank: job.start(rank, rank_side.use_as_context) for rank in job.everyone}
        for rank, call in closing.items():
            error = job.error_of(rank, call, "leaving a with block")
            job.check(error is None and call.result(0), f"rank {rank} is not closed: {error!r}")
        job.run(0, rank_side.call, "close")
        calls: list[tuple[Any, ...]] = [("execute_barrier",)]
        if Capability.ABORT in self.backend.capabilities:
            calls.append(("abort", "too late"))
        if Capability.PROGRESS in self.backend.capabilities:
            calls.append(("report_progress", "too late"))
        for method, *arguments in calls:
            error = job.refusal(0, rank_side.call, method, *arguments)
            if not isinstance(error, BarrierUsageError):
                job.violated(f"{method}() after close() is not a BarrierUsageError", error)

    # Bad arguments.

    @pytest.mark.parametrize(
        "wrong", [{"rank": -1}, {"rank": 2, "world_size": 2}, {"rank": 0, "world_size": 0}], ids=str
    )
    def test_a_place_that_cannot_be_is_refused(self, job: Job, wrong: dict[str, int]) -> None:
        """A rank outside the world is an error when the barrier is made, never a guess."""
        error = self._join_error(job, 0, job.place(**{"rank": 0, **wrong}))
        if not isinstance(error, BarrierConfigError):
            job.violated(f"{wrong} is not refused by a BarrierConfigError", error)

    def test_a_time_limit_that_is_none_is_refused(self, job: Job) -> None:
        """A limit that is not a positive, finite number is an error, and uses up no round."""
        unusable = (0.0, -1.0, float("nan"), float("inf"))
        for number, secs in enumerate(unusable):
            # All ranks: a constructor may wait for the others before it looks at its arguments.
            places = [
                job.place(rank, timeout_secs=secs, name=f"{job.name}-{number}")
                for rank in job.everyone
            ]
            calls = [job.start_join(place.rank, place) for place in places]
            for rank, call in enumerate(calls):
                error = job.error_of(rank, call, "making its barrier")
                if not isinstance(error, BarrierConfigError):
                    job.violated(f"timeout_secs={secs} is taken by the constructor", error)
        job.join()
        for secs in unusable:
            error = job.refusal(0, rank_side.call, "execute_barrier", secs)
            if not isinstance(error, BarrierConfigError):
                job.violated(f"timeout_secs={secs} is taken by execute_barrier()", error)
        job.pass_through(job.arrive())

    # What is not declared.

    def test_what_is_not_declared_is_refused(self, job: Job) -> None:
        """A call that the backend cannot honour is an error, never a silent no-op."""
        refused: list[tuple[Callable[..., object], tuple[str, ...]]] = []
        if Capability.ABORT not in self.backend.capabilities:
            refused += [(rank_side.call, ("abort", "reason")), (rank_side.enter_phase, ())]
        if Capability.PROGRESS not in self.backend.capabilities:
            refused += [(rank_side.call, ("report_progress", "half"))]
        if not refused:
            pytest.skip("abort and progress are declared")
        job.join()
        for function, arguments in refused:
            error = job.refusal(0, function, *arguments)
            if not isinstance(error, BarrierUsageError):
                job.violated(f"{function.__name__}{arguments} is no BarrierUsageError", error)

    # Observers.

    def test_observers_hear_of_every_round(self, job: Job) -> None:
        """Observers are told when a rank enters and leaves each round, and of the end."""
        job.join()
        for rank in job.everyone:
            job.run(rank, rank_side.listen, False)
        job.pass_through(job.arrive(rounds=2, tag="save"))
        expected = [(hook, number) for number in (1, 2) for hook in ("enter", "exit")]
        for rank in job.everyone:
            heard = [(event.hook, event.round) for event in job.heard(rank) if event.tag == "save"]
            job.check(heard == expected, f"rank {rank}'s observer heard {heard}, not {expected}")
        closing = {rank: job.start(rank, rank_side.call, "close") for rank in job.everyone}
        for rank, call in closing.items():
            job.error_of(rank, call, "close()")
            job.check(
                job.heard(rank)[-1].hook == "closed", f"rank {rank}'s observer heard of no close"
            )

    @_needs(Capability.TIMEOUT)
    def test_observers_hear_of_a_failure(self, job: Job) -> None:
        """Observers are told of a failed round, with the error that the caller gets."""
        job.join()
        job.run(0, rank_side.listen, False)
        visits = job.visits(job.arrive(job.but_last, timeout_secs=_SHORT_SECS, tag="save"))
        event = job.heard(0)[-1]
        raised, told = str(visits[0][-1].error), str(event.error)
        job.check(event.hook == "failed", f"the observer last heard of {event.hook!r}")
        job.check(told == raised, f"the observer was told {told!r}; raised was {raised!r}")

    @_needs(Capability.NAMES, Capability.TIMEOUT)
    def test_observers_hear_who_is_missing(self, job: Job) -> None:
        """After ``warn_after_secs`` observers are told who is missing, while there is time."""
        job.join(warn_after_secs=0.3)
        if job.run(0, rank_side.limits)[1] != 0.3:
            pytest.skip("not checked: make_barrier does not pass warn_after_secs on")
        job.run(0, rank_side.listen, False)
        job.visits(job.arrive(job.but_last, timeout_secs=1.5))
        told = [
            [status.rank for status in event.missing]
            for event in job.heard(0)
            if event.hook == "waiting"
        ]
        job.check(told and told[0] == [job.last], f"rank 0's observer was told {told}")

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_an_observer_that_raises_breaks_nothing(self, job: Job) -> None:
        """An observer that raises is logged, and neither stops nor breaks a barrier."""
        job.join()
        for rank in job.everyone:
            job.run(rank, rank_side.listen, True)
        job.pass_through(job.arrive(rounds=3))


def _guard(cls: type[BarrierContract]) -> None:
    """Refuse a class that lacks what the tests need, or changes them without saying why.

    Raises:
        TypeError: It does.
    """
    if cls.world_size < 3:
        raise TypeError(f"{cls.__name__}.world_size is {cls.world_size}; the tests need 3 ranks")
    if getattr(cls, "ranks_are", "threads") not in ("threads", "processes"):
        raise TypeError(f'{cls.__name__}.ranks_are must be "threads" or "processes"')
    if getattr(cls, "__test__", True) is not True:
        raise TypeError(f"{cls.__name__}.__test__ would drop every standard test")
    standard = {name for name in vars(BarrierContract) if name.startswith("test_")}
    overrides, left_out = _reasons(cls, "overrides"), _reasons(cls, "left_out")
    for name in sorted({*overrides, *left_out} - standard):
        raise TypeError(f"{cls.__name__} gives a reason for {name}, which is no standard test")
    for name in sorted(standard):
        changed = getattr(cls, name) is not getattr(BarrierContract, name)
        if name in left_out:
            setattr(cls, name, _left_out(name, left_out[name]))
        elif changed and name not in overrides:
            raise TypeError(
                f"{cls.__name__} replaces or drops the standard test {name}: say why, in "
                f'overrides = {{"{name}": "the reason"}}, or in left_out'
            )
        elif name in overrides and not changed:
            raise TypeError(
                f"{cls.__name__}.overrides names {name}, but the class has it unchanged"
            )


def _reasons(cls: type[BarrierContract], attribute: str) -> dict[str, str]:
    """Return the reasons that a class and those it derives from give, by the name of the test.

    Raises:
        TypeError: One is empty.
    """
    reasons = {
        name: reason
        for base in reversed(cls.__mro__)
        for name, reason in vars(base).get(attribute, {}).items()
    }
    for name, reason in reasons.items():
        if not isinstance(reason, str) or not reason.strip():
            raise TypeError(f"{cls.__name__}.{attribute} gives no reason for {name}")
    return reasons


def _left_out(name: str, reason: str) -> Callable[[BarrierContract], None]:
    """Return a test that is reported as left out."""

    def left_out(self: BarrierContract) -> None:
        pytest.skip(f"left out: {reason}")

    left_out.__name__ = name
    return left_out


def _processes(job: Job) -> RankProcesses:
    assert isinstance(job.ranks, RankProcesses)
    return job.ranks
