"""A job of the soak test: its ranks, their fault in a generation, and what must hold."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from barrier_core import BarrierConfigError, BarrierSetupError, Verdict
from barrier_core.capability import Capability
from barrier_core.testing.rank_processes import (
    RankCall,
    RankEndedError,
    RankProcesses,
    wait_until,
)
from tests.support.by_name import NamedBackend
from tests.support.slow_proxy import SlowProxy
from tests.support.soak.faults import FAULTS, Scene
from tests.support.soak.rank_side import (
    ROUNDS,
    TIMEOUT_SECS,
    WORLD_SIZE,
    Entered,
    Outcome,
    Part,
    go_through_rounds,
    resident_mb,
)
from tests.support.soak.torch_store import TorchStore

GRACE_SECS = 7.0
"""By how much a wait may exceed its limit: a busy machine, and a store that stands still."""
_EARLY_SECS = 1.0
"""How much later than it was entered a round may be known to be, on a busy machine."""
_END_SECS = 40.0


class Job:
    """Ranks that go through generation after generation of one barrier.

    Args:
        job_id: Tells it from the others.
        backend: What barrier it has.
        folder: An empty folder of its own.
        store: The store of all jobs, if the soak test has one.
    """

    def __init__(
        self, job_id: str, backend: NamedBackend, folder: Path, store: TorchStore | None
    ) -> None:
        self.job_id = job_id
        self.ranks = RankProcesses(WORLD_SIZE)
        self.rounds = 0
        self._backend = backend
        self._capabilities = backend.capabilities
        self._folder = folder
        self._store = store
        self._entered = Entered(folder)
        self._calls: list[RankCall[Outcome]] = []

    def close(self) -> None:
        """End its processes."""
        self._kill_children()
        self.ranks.close()

    def begin(self, generation: int, name: str, chance: random.Random) -> Scene:
        """Start a generation with a fault in it; return where that happens."""
        self.fault, self._name, self._generation = FAULTS[name], name, generation
        self._culprit = chance.randrange(WORLD_SIZE)
        at_round = chance.randrange(1, ROUNDS - 5)
        self._proxy = None
        port = None if self._store is None else self._store.port
        if port is not None and name == "slow store":
            self._proxy = SlowProxy(port)
            port = self._proxy.port
        self._calls = [
            self.ranks.start(
                rank,
                go_through_rounds,
                Part(
                    self._backend,
                    self.job_id,
                    generation,
                    self._folder,
                    port,
                    name if rank == self._culprit else None,
                    at_round,
                ),
            )
            for rank in range(WORLD_SIZE)
        ]
        return Scene(
            self.job_id,
            generation,
            at_round,
            self._culprit,
            self.ranks,
            self._store,
            self._proxy,
            self.await_round,
        )

    def await_round(self, number: int) -> None:
        """Return once all ranks have come to a round, or have ended."""
        wait_until(
            lambda: (
                self._entered.all_have_entered(self._generation, number)
                or all(call.done() for call in self._calls)
            ),
            f"{self.job_id} comes to round {number}",
            _END_SECS,
        )

    def end(self) -> None:
        """Wait for the end of the generation.

        Raises:
            AssertionError: A guarantee did not hold.
            BarrierError: The barrier cannot be made at all.
        """
        outcomes = self._outcomes()
        if self._name == "fork and kill":
            self._kill_children(at_least=1)
        if self._proxy is not None:
            self._proxy.close()
        for rank, outcome in outcomes.items():
            longest = outcome.longest_wait_secs
            assert longest < TIMEOUT_SECS + GRACE_SECS, f"rank {rank} has waited {longest:.1f} s"
            kind = outcome.verdict.kind if outcome.verdict else None
            assert kind in self.fault.kinds, f"rank {rank}: {outcome.verdict}"
        if Capability.ONE_VERDICT in self._capabilities:
            self._check_agreement(outcomes)
        if Capability.NAMES in self._capabilities:
            for outcome in outcomes.values():
                if outcome.verdict is not None:
                    self._check_names(outcome.verdict, outcomes)
        self.rounds += max((outcome.passed for outcome in outcomes.values()), default=0)
        self.ranks.refresh()

    def resident_mb(self) -> dict[int, float]:
        """Return how much memory each process has, by pid: one that was replaced starts afresh."""
        return {
            self.ranks.pid(rank): self.ranks.run(rank, resident_mb) for rank in range(WORLD_SIZE)
        }

    def _outcomes(self) -> dict[int, Outcome]:
        """Return what each rank that has not ended made of the generation."""
        outcomes = {}
        for rank, call in enumerate(self._calls):
            is_culprit = rank == self._culprit
            if is_culprit and self._name == "fork and kill":
                continue  # its child keeps the pipe open on which it would answer
            error = call.error(_END_SECS)
            if error is None:
                if not (is_culprit and self._name == "close"):
                    outcomes[rank] = call.result()
            elif not (
                isinstance(error, RankEndedError)
                and (self.fault.ends == "all" or (is_culprit and self.fault.ends != "nobody"))
            ):
                if self._generation == 1 and isinstance(
                    error, (BarrierConfigError, BarrierSetupError)
                ):
                    raise error  # by the choice of the backend and its arguments
                raise AssertionError(f"rank {rank}: {error!r}") from error
        return outcomes

    def _check_agreement(self, outcomes: dict[int, Outcome]) -> None:
        """Check that all ranks tell the same, but for those that cannot know."""
        lost: dict[int, Outcome] = {}
        told: dict[int, Outcome] = {}
        for rank, outcome in outcomes.items():
            is_lost = outcome.verdict is not None and outcome.verdict.kind == "store"
            (lost if is_lost else told)[rank] = outcome
        first = next(iter(told.values()), None)
        assert all(outcome == first for outcome in told.values()), f"split: {outcomes}"
        if first is not None and first.verdict is not None:
            for rank, outcome in lost.items():
                assert outcome.passed < first.verdict.round, f"split by rank {rank}: {outcomes}"
        # What a rank has passed, all have entered: each has checked that itself.

    def _check_names(self, verdict: Verdict, outcomes: dict[int, Outcome]) -> None:
        missing = [status.rank for status in verdict.missing]
        if self.fault.names_culprit:
            assert self._culprit in missing, f"the culprit is rank {self._culprit}: {verdict}"
        if verdict.kind == "store":
            assert missing == [], f"blames somebody for the loss of the store: {verdict}"
        decider = outcomes.get(-1 if verdict.rank is None else verdict.rank)
        if verdict.kind != "timeout" or decider is None or self.fault.may_blame_anybody:
            return
        for rank in missing:
            outcome = outcomes.get(rank)
            if outcome is not None and outcome.passed >= verdict.round - 1:
                late = outcome.entered_at - decider.entered_at
                assert late > TIMEOUT_SECS - _EARLY_SECS, (
                    f"rank {rank} is said to be missing, and came {late:.1f} s after rank "
                    f"{verdict.rank}: {verdict}"
                )

    def _kill_children(self, at_least: int = 0) -> None:
        """Kill the children that ranks have left; check that so many of them lived."""
        lived = 0
        for path in self._folder.glob("child-*"):
            with suppress(ProcessLookupError):
                os.kill(int(path.name.partition("-")[2]), signal.SIGKILL)
                lived += 1
            path.unlink()
        assert lived >= at_least, f"{lived} children of killed ranks lived, not {at_least}"


def of_both(jobs: list[Job]) -> Callable[[int], None]:
    """Return what waits until several jobs have come to a round."""

    def await_round(number: int) -> None:
        for job in jobs:
            job.await_round(number)

    return await_round
