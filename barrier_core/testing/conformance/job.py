"""One test's job: its ranks, what they have seen, and the report when a guarantee is broken."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import pytest

from barrier_core.errors import BarrierFailedError
from barrier_core.testing.conformance import rank_side
from barrier_core.testing.conformance.rank_side import Event, Visit
from barrier_core.testing.rank_spec import Factory, MakeBarrier, RankSpec
from barrier_core.testing.ranks import Call, Ranks
from barrier_core.verdict import Verdict

T = TypeVar("T")

_SHOWN = 4  # last things that a rank saw, in a report


Arrivals = dict[int, Call[list[Visit]]]
"""By rank: its calls of ``execute_barrier``, under way."""


class Job:
    """What a standard test does with its ranks.

    Args:
        backend: Name of the class under test, for reports.
        guarantee: What the test stands for, in one sentence.
        ranks: The threads or processes.
        world_size: Number of ranks.
        factory: Makes a rank's barrier.
        name: A name that no other job has.
        patience_secs: How long to wait for a rank that must come to an end.
        seed: What the random delays of this test come from.
    """

    def __init__(
        self,
        backend: str,
        guarantee: str,
        ranks: Ranks,
        world_size: int,
        factory: Factory | MakeBarrier,
        name: str,
        patience_secs: float,
        seed: str,
    ) -> None:
        self.everyone = list(range(world_size))
        self.last = world_size - 1
        self.but_last = self.everyone[:-1]
        self.name = name
        self.random = random.Random(seed)
        self.ranks = ranks
        self.factory = factory
        self.patience_secs = patience_secs
        self._backend = backend
        self._guarantee = guarantee
        self._seed = seed
        self._world_size = world_size
        self._history: dict[int, list[tuple[int, str]]] = {rank: [] for rank in self.everyone}
        """By rank: what it saw, each with the number of the round, or 0."""
        self._began = time.monotonic()
        self.identities: dict[int, tuple[str, int]] = {}
        """By rank: host and pid, as the rank itself knows them."""

    # Making barriers.

    def spec(self, rank: int, **changes: Any) -> RankSpec:
        """Say which barrier a rank is to make: this job's, but for the changes."""
        return RankSpec(
            **{"rank": rank, "world_size": self._world_size, "name": self.name, **changes}
        )

    def key(self, name: str | None = None, **changes: Any) -> str:
        """Return where the ranks keep a barrier."""
        return self.spec(0, name=name or self.name, **changes).key

    def start_join(self, worker: int, spec: RankSpec) -> Call[tuple[str, int, type]]:
        """Have a worker begin to make a barrier."""
        return self.ranks.start(worker, rank_side.join, self.factory, spec)

    def join(self, ranks: Sequence[int] | None = None, **changes: Any) -> list[type]:
        """Have ranks make the barrier, all at once; return the class of each one's."""
        chosen = self.everyone if ranks is None else ranks
        calls = {rank: self.start_join(rank, self.spec(rank, **changes)) for rank in chosen}
        classes = []
        for rank, call in calls.items():
            error = self.error_of(rank, call, "making its barrier")
            if error is not None:
                self._note(rank, f"could not make its barrier: {_told(error)}")
                self.violated(f"rank {rank} could not make its barrier", error)
            host, pid, cls = call.result(0)
            self.identities[rank] = (host, pid)
            classes.append(cls)
            self._note(rank, f"made its barrier ({_described(self.spec(rank, **changes))})")
        return classes

    def join_error(self, worker: int, spec: RankSpec) -> BaseException | None:
        """Have a worker make a barrier; return what it raised."""
        return self.error_of(worker, self.start_join(worker, spec), "joining")

    # Going through the barrier.

    def arrive(
        self,
        ranks: Sequence[int] | None = None,
        *,
        rounds: int = 1,
        max_delay_secs: float = 0.0,
        timeout_secs: float | None = None,
        tag: str = "",
        key: str | None = None,
    ) -> Arrivals:
        """Start ``execute_barrier`` on ranks, some rounds, each after a random delay."""
        return {
            rank: self.ranks.start(
                rank,
                rank_side.visit,
                key or self.key(),
                [self.random.uniform(0, max_delay_secs) for _ in range(rounds)],
                timeout_secs,
                tag,
            )
            for rank in (self.everyone if ranks is None else ranks)
        }

    def start(self, rank: int, function: Callable[..., T], *args: Any) -> Call[T]:
        """Start one of `rank_side`'s functions on this job's barrier."""
        return self.ranks.start(rank, function, self.key(), *args)

    def run(self, rank: int, function: Callable[..., T], *args: Any) -> T:
        """Run one of `rank_side`'s functions on this job's barrier."""
        call = self.start(rank, function, *args)
        error = self.error_of(rank, call, f"{function.__name__}{args}")
        if error is not None:
            self.violated(f"rank {rank}: {function.__name__}{args} raised", error)
        return call.result(0)

    def refusal(self, rank: int, function: Callable[..., object], *args: Any) -> BaseException:
        """Run a function that must raise; return what it raised."""
        call = self.start(rank, function, *args)
        error = self.error_of(rank, call, f"{function.__name__}{args}")
        if error is None:
            self.violated(f"rank {rank}: {function.__name__}{args} was not refused")
        return error

    def error_of(self, rank: int, call: Call[Any], doing: str) -> BaseException | None:
        """Wait for a call to end; return what it raised."""
        error = None
        with suppress(TimeoutError):
            error = call.error(self.patience_secs)
        if not call.done():
            self._note(rank, f"has not come back from {doing}")
            self.violated(
                f"rank {rank} has not come back from {doing} after {self.patience_secs:g} s"
            )
        return error

    def visits(self, arrivals: Arrivals) -> dict[int, list[Visit]]:
        """Wait for ranks to leave the barrier; return what each one saw."""
        visits: dict[int, list[Visit]] = {}
        late: list[int] = []
        deadline = time.monotonic() + self.patience_secs
        for rank, call in arrivals.items():
            try:
                error = call.error(max(deadline - time.monotonic(), 0.01))
            except TimeoutError:
                late.append(rank)
                self._note(rank, "is still in execute_barrier()")
                continue
            if error is not None:
                self._note(rank, f"ended: {_told(error)}")
                self.violated(f"rank {rank} did not come back from the barrier", error)
            visits[rank] = call.result(0)
            for visit in visits[rank]:
                self._note(rank, f"{self._time(visit)}  {visit}", visit.round)
        if late:
            self.violated(f"ranks {late} are still in the barrier after {self.patience_secs:g} s")
        return visits

    def pass_through(self, arrivals: Arrivals) -> dict[int, list[Visit]]:
        """Wait for ranks to leave; every round must have passed, and for nobody too early."""
        visits = self.visits(arrivals)
        for rank, seen in visits.items():
            for visit in seen:
                if visit.error is not None:
                    self.violated(f"rank {rank} did not pass round {visit.round}", visit.error)
        self.check_nobody_was_early(visits)
        return visits

    def check_nobody_was_early(self, visits: dict[int, list[Visit]]) -> None:
        """Check that no rank left a round before all of ``visits``'s ranks had entered it."""
        for round_visits in zip(*visits.values(), strict=False):
            last = max(round_visits, key=lambda visit: visit.entered)
            for visit in round_visits:
                if visit.error is None and visit.left < last.entered:
                    early = (last.entered - visit.left) * 1000
                    self.violated(
                        f"rank {visit.rank} left round {visit.round} {early:.2f} ms before rank "
                        f"{last.rank} had entered it",
                        in_round=visit.round,
                    )

    def verdicts(self, arrivals: Arrivals) -> dict[int, Verdict]:
        """Wait for ranks to leave; return the verdicts of a round that must not have passed."""
        verdicts = {}
        for rank, seen in self.visits(arrivals).items():
            error = seen[-1].error
            if error is None:
                self.violated(f"rank {rank} passed a round that could not pass")
            if not isinstance(error, BarrierFailedError):
                self.violated(f"rank {rank} raised an error without a verdict", error)
            verdicts[rank] = error.verdict
        return verdicts

    def the_verdict(self, arrivals: Arrivals) -> Verdict:
        """Wait for ranks to leave; return the verdict, which must be the same for all."""
        verdicts = self.verdicts(arrivals)
        self.check_one_verdict(verdicts)
        return next(iter(verdicts.values()))

    def check_one_verdict(self, verdicts: dict[int, Verdict]) -> None:
        """Check that all ranks have the same verdict."""
        first, *others = verdicts
        for rank in others:
            if verdicts[rank] != verdicts[first]:
                self.violated(
                    f"ranks {first} and {rank} have different verdicts:\n"
                    f"    {verdicts[first]!r}\n    {verdicts[rank]!r}"
                )

    def heard(self, rank: int) -> list[Event]:
        """Return what a rank's observer has been told."""
        return self.run(rank, rank_side.heard)

    def leave(self) -> None:
        """Have all ranks close what they have open; it must end in time."""
        self.ranks.refresh()
        for rank in self.everyone:
            self.ranks.start(rank, rank_side.stop_listening).error(self.patience_secs)
        calls = {rank: self.ranks.start(rank, rank_side.leave_all) for rank in self.everyone}
        for rank, call in calls.items():
            self.error_of(rank, call, "close()")

    # Reports.

    def check(self, holds: object, what: str) -> None:
        """Report a violation unless something holds."""
        if not holds:
            self.violated(what)

    def violated(
        self, what: str, error: BaseException | None = None, in_round: int | None = None
    ) -> NoReturn:
        """Fail the test with a report that can be sent to the backend's author.

        Args:
            what: What was expected, and what was found.
            error: What a rank raised.
            in_round: The round to tell of; the last ones if not given.
        """
        lines = [f"{self._backend} breaks a guarantee: {self._guarantee}", "", f"  {what}"]
        if error is not None:
            lines.append(f"    {_told(error)}")
            if error.__cause__ is not None:
                lines += [f"    {line}" for line in str(error.__cause__).strip().splitlines()]
        lines += ["", "  what each rank saw (seconds since the test began):"]
        for rank in self.everyone:
            lines += [f"    rank {rank}: {text}" for text in self._seen_by(rank, in_round)]
        number = self._seed.partition(" ")[0]
        lines += ["", f"  seed of the random delays: BARRIER_CONTRACT_SEED={number}"]
        pytest.fail("\n".join(lines), pytrace=False)

    def _seen_by(self, rank: int, in_round: int | None) -> list[str]:
        seen = self._history[rank]
        if in_round is not None:
            return [text for number, text in seen if abs(number - in_round) <= 1 and number]
        hidden = [f"... ({len(seen) - _SHOWN} more)"] if len(seen) > _SHOWN else []
        return [*hidden, *(text for _, text in seen[-_SHOWN:])] or ["nothing"]

    def _note(self, rank: int, what: str, in_round: int = 0) -> None:
        self._history[rank].append((in_round, what))

    def _time(self, visit: Visit) -> str:
        return f"{visit.entered - self._began:.4f} to {visit.left - self._began:.4f}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _described(spec: RankSpec) -> str:
    return f"name {spec.name!r}, generation {spec.generation!r}"
