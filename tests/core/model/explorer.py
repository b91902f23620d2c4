"""Walks through every state that a scenario can reach, and says which guarantee is broken in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from barrier_core.agreement.cleanup import remove_all
from barrier_core.agreement.membership import PROTOCOL_VERSION, JobDescription
from tests.core.model.rank_model import Step, rounds_passed, steps
from tests.core.model.scenario import JOB, KEYS, Faults, Protocol, Rank, Scenario
from tests.core.model.store_model import ModelClient, Store

_T = TypeVar("_T")


class State(NamedTuple):
    """A state of the whole: the store and every rank."""

    store: Store
    ranks: tuple[Rank, ...]


class Move(NamedTuple):
    """A step of one rank, from one state of the whole."""

    rank: int
    step: Step

    def __str__(self) -> str:
        fault = f"  [fault: {self.step.fault}]" if self.step.fault else ""
        return f"rank {self.rank} {self.step.label}{fault}"


class Counterexample(NamedTuple):
    """A way to break a guarantee; there is no shorter one."""

    broken: str
    moves: list[Move]

    def __str__(self) -> str:
        width = len(str(len(self.moves)))
        lines = [f"{number:>{width}}. {move}" for number, move in enumerate(self.moves, 1)]
        return "\n".join([f"BROKEN: {self.broken}", *lines])


class Exploration(NamedTuple):
    """What came of it."""

    states: int
    final_states: int
    counterexample: Counterexample | None


def initial(scenario: Scenario) -> State:
    """Return the state in which everything begins."""
    store, _ = Store().create(KEYS.job, JOB)
    return State(store, (Rank(),) * scenario.world_size)


def after(state: State, move: Move) -> State:
    """Return the state after a move."""
    ranks = list(state.ranks)
    ranks[move.rank] = move.step.rank
    return State(move.step.store, tuple(ranks))


def broken_guarantee(scenario: Scenario, ranks: tuple[Rank, ...]) -> str | None:
    """Say which guarantee the ranks' outcomes break."""
    passed = max(rounds_passed(rank) for rank in ranks)
    if passed and len({scenario.tag(rank, passed) for rank in range(scenario.world_size)}) > 1:
        return f"mismatch: round {passed} passed, and its ranks have different tags"
    for me, rank in enumerate(ranks):
        arrived_at = rank.round if rank.appended else rank.round - 1
        if arrived_at < passed:
            return f"early release: round {passed} passed, and rank {me} has not arrived"
    # Whoever has lost the store says that it does not know.
    verdicts = [
        rank.verdict for rank in ranks if rank.verdict is not None and rank.verdict.kind != "store"
    ]
    if any(verdict != verdicts[0] for verdict in verdicts):
        return f"split verdict: {' / '.join(map(str, verdicts))}"
    for me, rank in enumerate(ranks):
        if rank.at != "dead" and rank.told != rounds_passed(rank) + (rank.at == "broken"):
            return f"rank {me} has been told {rank.told} times, of {rank.round} rounds"
        if rank.verdict in verdicts and not passed < rank.round == rank.verdict.round:
            return (
                f"split verdict: rank {me} raised in round {rank.round}, the verdict is on round "
                f"{rank.verdict.round}, and round {passed} has passed"
            )
    return None


def wrong_end(state: State) -> str | None:
    """Say what is wrong with a state in which nothing more can happen, but for faults."""
    for me, rank in enumerate(state.ranks):
        if rank.at not in ("broken", "done", "dead"):
            return f"lost wake-up: rank {me} is {rank.at} in round {rank.round} for ever"
        if rank.at == "done" and rank.was_aborted:
            return f"lost abort: rank {me} was told to abort, and no round was broken"
    if state.store.released:
        return f"ranks were released that had stopped to wait: {state.store.released}"
    return None


def leftovers(scenario: Scenario, store: Store) -> str | None:
    """Run the real removal of a generation; say what it leaves behind."""
    client = ModelClient(store)
    job = JobDescription(PROTOCOL_VERSION, scenario.world_size, "")
    client.write(KEYS.job, msgspec.json.encode(job))
    remove_all(client, KEYS)
    return f"state left behind: {client.keys}" if client.keys else None


class _Link(NamedTuple):
    """How a state was first reached."""

    state: _Numbered
    rank: int
    step: int


class _NumberedStep(NamedTuple):
    rank: int
    store: int
    faults: int
    is_fault: bool
    leaves: bool
    """Whether the rank passes its round, raises or dies: where a guarantee can break."""


_Numbered = tuple[int, ...]
"""A state as numbers: of the faults that are left, of the store, and of each rank."""


class Explorer:
    """Breadth first, so the first counterexample is a shortest one.

    A rank's steps depend on the rank, the store and the faults that are left; few of each make up
    many states of the whole. So each of them gets a number, a state is a tuple of numbers, and
    steps are worked out once for all states that have these three in common.
    """

    def __init__(self, scenario: Scenario, faults: Faults) -> None:
        self._scenario = scenario
        self._faults = _Numbers[Faults]()
        self._stores = _Numbers[Store]()
        self._ranks = _Numbers[Rank]()
        first = initial(scenario)
        self._start: _Numbered = (
            self._faults.of(faults),
            self._stores.of(first.store),
            *map(self._ranks.of, first.ranks),
        )
        self._came_from: dict[_Numbered, _Link | None] = {self._start: None}
        self._steps: dict[tuple[int, int, int, int], list[_NumberedStep]] = {}
        self._forgotten: dict[tuple[int, int], int] = {}
        self._leftovers: dict[Store, str | None] = {}

    def explore(self) -> Exploration:
        """Visit every state, or stop at the first in which a guarantee is broken."""
        level = [self._start]
        final_states = 0
        while level:
            next_level: list[_Numbered] = []
            for state in level:
                is_final = True
                for me, number, step in self._moves(state):
                    is_final = is_final and step.is_fault
                    before, behind = state[2 : 2 + me], state[3 + me :]
                    ranks = (*before, step.rank, *behind)
                    store = self._forget(step.store, ranks) if step.leaves else step.store
                    reached = (step.faults, store, *ranks)
                    if reached in self._came_from:
                        continue
                    self._came_from[reached] = _Link(state, me, number)
                    next_level.append(reached)
                    if step.leaves:
                        broken = broken_guarantee(self._scenario, self._state(reached).ranks)
                        if broken is not None:
                            return self._found(broken, reached, final_states)
                if is_final:
                    final_states += 1
                    broken = self._broken_at_the_end(self._state(state))
                    if broken is not None:
                        return self._found(broken, state, final_states)
            level = next_level
        return Exploration(len(self._came_from), final_states, None)

    def _moves(self, state: _Numbered) -> Iterator[tuple[int, int, _NumberedStep]]:
        faults, store, *ranks = state
        for me, rank in enumerate(ranks):
            for number, step in enumerate(self._steps_of(me, rank, store, faults)):
                yield me, number, step

    def _steps_of(self, me: int, rank: int, store: int, faults: int) -> list[_NumberedStep]:
        found = self._steps.get((me, rank, store, faults))
        if found is None:
            before = self._ranks.values[rank]
            left = self._faults.values[faults]
            found = self._steps[me, rank, store, faults] = [
                _NumberedStep(
                    rank=self._ranks.of(step.rank),
                    store=self._stores.of(step.store),
                    faults=self._faults.of(left.after(step.fault)) if step.fault else faults,
                    is_fault=step.fault is not None,
                    leaves=step.rank.round > before.round or step.rank.at in ("broken", "dead"),
                )
                for step in steps(self._scenario, me, before, self._stores.values[store], left)
            ]
        return found

    def _forget(self, store: int, ranks: _Numbered) -> int:
        """Bring stores that differ only in what no rank will ever read into one form.

        Why this loses nothing: a rank uses the keys of its own round only, so those of rounds that
        all living ranks have left are read by nobody but the removal of a generation.
        """
        living = [rank for rank in map(self._ranks.values.__getitem__, ranks) if rank.at != "dead"]
        oldest = min((rank.round for rank in living), default=self._scenario.rounds + 1)
        if oldest == 1 or self._scenario.protocol.round_keys != KEYS.round:
            return store
        if (store, oldest) not in self._forgotten:
            self._forgotten[store, oldest] = self._stores.of(
                self._stores.values[store].forget(*self._keys_before(oldest))
            )
        return self._forgotten[store, oldest]

    def _keys_before(self, oldest: int) -> tuple[set[str], set[str]]:
        """Return the logs and the release signals of all rounds before this one."""
        keys = [
            self._scenario.keys(rank, number)
            for rank in range(self._scenario.world_size)
            for number in range(1, oldest)
        ]
        return {each.log for each in keys}, {each.release for each in keys}

    def _state(self, state: _Numbered) -> State:
        return State(
            self._stores.values[state[1]], tuple(self._ranks.values[rank] for rank in state[2:])
        )

    def _broken_at_the_end(self, state: State) -> str | None:
        broken = wrong_end(state)
        # What half an arrival leaves in a store that has forgotten the rest, nobody finds.
        was_emptied = state.store.read(KEYS.job) is None
        if broken is None and not was_emptied and self._scenario.protocol == Protocol():
            # What counts is which keys there are, and who the logs say has come.
            logs, signals = self._keys_before(self._scenario.rounds + 1)
            known = state.store.forget(logs, signals)
            values = tuple((key, log if key in logs else b"") for key, log in known.values)
            store = Store(values, known.counts)
            if store not in self._leftovers:
                self._leftovers[store] = leftovers(self._scenario, store)
            broken = self._leftovers[store]
        return broken

    def _found(self, broken: str, state: _Numbered, final_states: int) -> Exploration:
        trace: list[Move] = []
        link = self._came_from[state]
        while link is not None:
            before = self._state(link.state)
            faults = self._faults.values[link.state[0]]
            rank = before.ranks[link.rank]
            options = list(steps(self._scenario, link.rank, rank, before.store, faults))
            trace.append(Move(link.rank, options[link.step]))
            link = self._came_from[link.state]
        counterexample = Counterexample(broken, trace[::-1])
        return Exploration(len(self._came_from), final_states, counterexample)


class _Numbers(Generic[_T]):
    """Gives each value a number."""

    def __init__(self) -> None:
        self.values: list[_T] = []
        self._numbers: dict[_T, int] = {}

    def of(self, value: _T) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number
