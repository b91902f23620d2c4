"""Every interleaving of small jobs, and random ones of larger jobs, keep every guarantee."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import astuple

from tests.core.model import mutants
from tests.core.model.explorer import (
    Counterexample,
    Explorer,
    Move,
    after,
    broken_guarantee,
    initial,
    leftovers,
    wrong_end,
)
from tests.core.model.rank_model import steps
from tests.core.model.scenario import JOB, KEYS, Faults, Protocol, Scenario
from tests.support.sizes import size

ANY_NUMBER = Faults()
FORGETTING = Faults(timeout=1, interrupt=0, abort=1, death=0, flush=1)
ONE_OF_FOUR = Faults(timeout=1, interrupt=1, abort=1, death=1)
ONE_OF_EACH = Faults(timeout=1, interrupt=1, abort=1, death=1, alarm=1, late=1)
MISMATCH = ((1, 2, "x"),)  # rank 1 comes to round 2 with another tag


@pytest.fixture(autouse=True)
def _without_coverage() -> Iterator[None]:
    """Measuring makes the search four times as slow, and soon sees nothing new."""
    coverage = sys.modules.get("coverage")
    measuring = coverage.Coverage.current() if coverage is not None else None
    if measuring is not None:
        measuring.stop()
    yield
    if measuring is not None:
        measuring.start()


EXPLORED = {
    "2 ranks, any number of faults": (Scenario(2, 2), ANY_NUMBER, 500_000),
    "2 ranks with different tags": (Scenario(2, 2, tags=MISMATCH), ONE_OF_FOUR, 100_000),
    "2 ranks, a store that cannot count": (Scenario(2, 2, can_count=False), ONE_OF_FOUR, 60_000),
    "2 ranks, a late watcher": (Scenario(2, 2), Faults(1, 0, 1, 0, late=1), 150_000),
    "2 ranks, an alarm and a death": (Scenario(2, 2), Faults(0, 0, 1, 1, alarm=1), 50_000),
    "2 ranks, a store that forgets": (Scenario(2, 2), Faults(1, 0, 0, 0, flush=1), 30_000),
    "2 ranks, it cannot count and forgets": (
        Scenario(2, 2, can_count=False),
        Faults(1, 0, 1, 0, flush=1),
        50_000,
    ),
    "2 ranks, it forgets, one is interrupted or dies": (
        Scenario(2, 2),
        Faults(0, 1, 0, 1, flush=1),
        60_000,
    ),
    "2 ranks, 3 rounds": (Scenario(2, 3), Faults(1, 0, 1, 1), 80_000),
    "3 ranks, a timeout and an abort": (Scenario(3, 1), Faults(1, 0, 1, 0), 250_000),
    "3 ranks, a timeout and a death": (Scenario(3, 1), Faults(1, 0, 0, 1), 25_000),
    "3 ranks, a timeout and an interrupt": (Scenario(3, 1), Faults(1, 1, 0, 0), 200_000),
    "3 ranks with different tags": (
        Scenario(3, 1, tags=((1, 1, "x"),)),
        Faults(1, 0, 0, 1),
        20_000,
    ),
}
"""By name: what is explored, and how many states there are at least."""
EXPLORED_AT_LENGTH = {
    "2 ranks with different tags, any number": (
        Scenario(2, 2, tags=MISMATCH),
        ANY_NUMBER,
        500_000,
    ),
    "2 ranks, one fault of each kind": (Scenario(2, 1), ONE_OF_EACH, 1_000_000),
    "3 ranks, a store that forgets": (Scenario(3, 1), Faults(1, 0, 0, 0, flush=1), 200_000),
    "2 ranks, it forgets, and a late watcher": (
        Scenario(2, 2),
        Faults(0, 0, 1, 1, flush=1, late=1),
        700_000,
    ),
    "2 ranks, 2 rounds, four kinds": (Scenario(2, 2), Faults(0, 1, 0, 1, alarm=1, late=1), 700_000),
    "3 ranks, 2 rounds": (Scenario(3, 2), Faults(1, 0, 0, 1), 100_000),
}


@pytest.mark.parametrize("name", size(EXPLORED, EXPLORED | EXPLORED_AT_LENGTH))
def test_no_interleaving_breaks_a_guarantee(name: str) -> None:
    scenario, faults, states = (EXPLORED | EXPLORED_AT_LENGTH)[name]

    exploration = Explorer(scenario, faults).explore()

    assert exploration.counterexample is None, f"\n{exploration.counterexample}"
    assert exploration.states > states, "less has been explored than there is"


@pytest.mark.parametrize(
    ("mutant", "scenario", "broken"),
    [
        ("BREAK_BEFORE_REMOVAL", Scenario(2, 2), "split verdict"),
        ("LOG_NOT_CONSULTED", Scenario(2, 2), "split verdict"),
        ("REMOVED_TOO_EARLY", Scenario(2, 2), "lost wake-up"),
        ("REUSED_TOO_EARLY", Scenario(2, 2), "early release"),
        ("SIGNAL_NOT_REMOVED", Scenario(2, 2), "split verdict"),
        ("STILL_LISTENING", Scenario(2, 2), "early release"),
        ("ONE_SIGNAL", Scenario(2, 2, tags=MISMATCH), "mismatch"),
        ("EMPTIED_STORE", Scenario(2, 1), "split verdict"),
        ("FINISHED_TWICE", Scenario(2, 2), "rank 0 has been told 2 times"),
        ("STALE_REASON", Scenario(2, 2), "lost wake-up"),
        ("ABORT_LOST", Scenario(2, 2), "lost abort"),
    ],
)
def test_the_checker_finds_what_is_wrong_with_a_mutant(
    mutant: str, scenario: Scenario, broken: str
) -> None:
    protocol: Protocol = getattr(mutants, mutant)

    faults = FORGETTING if mutant == "EMPTIED_STORE" else ANY_NUMBER

    found = Explorer(scenario._replace(protocol=protocol), faults).explore().counterexample

    assert found is not None, f"{mutant} keeps every guarantee: the checker sees too little"
    assert found.broken.startswith(broken), f"{mutant} is caught for another reason:\n{found}"


def test_a_counterexample_is_told_step_by_step() -> None:
    scenario = Scenario(2, 1, protocol=mutants.SIGNAL_NOT_REMOVED)

    faults = Faults(timeout=1, interrupt=0, abort=0, death=0)
    found = Explorer(scenario, faults).explore().counterexample

    log, release = astuple(KEYS.round(1, ""))
    record = '{"kind":"timeout","rank":0,"reason":""}'
    assert str(found).splitlines() == [
        "BROKEN: split verdict: rank 0 raised in round 1, the verdict is on round 1, and round 1 "
        "has passed",
        " 1. rank 0 enters round 1",
        " 2. rank 0 looks into its mailbox",
        f" 3. rank 0 appends b'A0\\n' to {log}",
        f" 4. rank 0 is counted in at {release}",
        " 5. rank 0 times out  [fault: timeout]",
        " 6. rank 0 stops waiting for the release signal",
        f" 7. rank 0 appends b'B{record}\\n' to {log}",
        f" 8. rank 0 reads {log} -> b'A0\\nB{record}\\n'",
        " 9. rank 0 asks who is missing",
        "10. rank 0 creates barrier//ckpt/0/verdict",
        f"11. rank 0 reads {KEYS.job} -> {JOB!r}: RAISES in round 1: timeout by rank 0 in round 1, "
        "missing [1]",
        "12. rank 1 enters round 1",
        "13. rank 1 looks into its mailbox",
        f"14. rank 1 appends b'A1\\n' to {log}",
        f"15. rank 1 is counted in at {release}",
        "16. rank 1 is released: PASSES round 1",
    ]


RANKS = st.integers(0, 5)


class Job(RuleBasedStateMachine):
    """One random run of a larger job: too large to see all of it."""

    protocol = Protocol()

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[Move] = []

    @initialize(
        world_size=st.integers(4, 6),
        tags=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.just("x")), max_size=1),
        can_count=st.booleans(),
        faults=st.builds(
            Faults,
            *[st.integers(0, 3)] * 4,
            st.integers(0, 1),
            st.integers(0, 1),
            st.integers(0, 3),
        ),
    )
    def start(
        self, world_size: int, tags: list[tuple[int, int, str]], can_count: bool, faults: Faults
    ) -> None:
        self.scenario = Scenario(world_size, 3, tuple(tags), can_count, self.protocol)
        self.all_ranks = range(world_size)
        self.faults = faults
        self.state = initial(self.scenario)

    @rule(turns=st.lists(st.tuples(RANKS, st.integers(0, 3)), min_size=1, max_size=20))
    def go_on(self, turns: list[tuple[int, int]]) -> None:
        for rank, choice in turns:
            self.take(rank, choice)

    @rule(rank=RANKS, turns=st.integers(1, 6))
    def hurry(self, rank: int, turns: int) -> None:
        """One rank is faster than all others."""
        for _ in range(turns):
            self.take(rank, 0)

    @rule(late=RANKS)
    def wait_for(self, late: int) -> None:
        """One rank is slower than all others."""
        others = [rank for rank in self.all_ranks if rank != late % len(self.all_ranks)]
        while sum(self.take(rank, 0) for rank in others):
            pass

    @rule(rank=RANKS, choice=st.integers(0, 5))
    def fail(self, rank: int, choice: int) -> None:
        self.take(rank, choice, fault=True)

    def take(self, rank: int, choice: int, fault: bool = False) -> bool:
        """Take one of the rank's next steps, if there is one."""
        rank %= len(self.all_ranks)
        now = self.state.ranks[rank]
        possible = steps(self.scenario, rank, now, self.state.store, self.faults)
        options = [step for step in possible if bool(step.fault) == fault]
        if not options:
            return False
        move = Move(rank, options[choice % len(options)])
        if move.step.fault:
            self.faults = self.faults.after(move.step.fault)
        self.trace.append(move)
        self.state = after(self.state, move)
        self.check(broken_guarantee(self.scenario, self.state.ranks))
        return True

    def check(self, broken: str | None) -> None:
        assert broken is None, f"\n{Counterexample(broken or '', self.trace)}"

    def teardown(self) -> None:
        if self.trace:
            while sum(self.take(rank, len(self.trace)) for rank in self.all_ranks):
                pass
            was_emptied = self.state.store.read(KEYS.job) is None  # then nobody finds what is left
            left = None if was_emptied else leftovers(self.scenario, self.state.store)
            self.check(wrong_end(self.state) or left)


RANDOM_RUNS = settings(
    max_examples=300,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_no_random_run_of_a_larger_job_breaks_a_guarantee() -> None:
    run_state_machine_as_test(Job, settings=RANDOM_RUNS)


@pytest.mark.parametrize("mutant", ["REMOVED_TOO_EARLY", "REUSED_TOO_EARLY", "ONE_SIGNAL"])
def test_random_runs_find_a_mutant(mutant: str) -> None:
    class JobWithMutant(Job):
        protocol = getattr(mutants, mutant)

    unshrunk = settings(RANDOM_RUNS, phases=[Phase.generate], derandomize=True, database=None)

    with pytest.raises(AssertionError, match="BROKEN: "):
        run_state_machine_as_test(JobWithMutant, settings=unshrunk)
