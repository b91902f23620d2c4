"""Random faults and random delays for as long as wanted, every guarantee checked all the time.

    python tests/soak.py --seconds 600
    python tests/soak.py --backend file --argument directory=/tmp/soak

Two jobs of four ranks each go through generation after generation of a barrier of the same name,
over one store that outlives them. In each generation one of the faults of
`tests/support/soak/faults.py` happens to each job at a random moment, or one to the store of both,
and all ranks of a job must agree on what became of it. Every fault has happened before one happens
again. The store's number of keys and all processes' memory must stay flat.

Another backend than ``tcp_store`` needs a store that runs already, and stays: faults of the store
are left out, and those that need a capability that it does not declare.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

# Rank processes import the modules of tests by their full names.
sys.path.insert(0, str(Path(__file__).parents[1]))

from barrier_core import BarrierError
from tests.support.by_name import NamedBackend, add_options
from tests.support.soak.faults import FAULTS, Scene, deal, possible
from tests.support.soak.jobs import Job, of_both
from tests.support.soak.torch_store import TorchStore

DEFAULT_BACKEND = "tcp_store"
MOST_KEYS = 400
"""Of a job: two generations' rosters and heartbeats, and rounds that have not been collected."""
MOST_GROWTH_MB = 30


@dataclass
class Tally:
    """What a soak has seen."""

    generations: int = 0
    rounds: int = 0
    most_keys: int = 0
    growth_mb: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.generations} generations, {self.rounds} rounds, "
            f"{sum(self.faults.values()) - self.faults['none']} faults; at most {self.most_keys} "
            f"keys, {self.growth_mb:.1f} MiB growth"
        )


class Soak:
    """All jobs, their store, and what has been seen.

    Args:
        backend: What barrier the jobs have.
        jobs: How many jobs there are.
        chance: Decides what happens when.
        undo: Ends all processes.
    """

    def __init__(
        self, backend: NamedBackend, jobs: int, chance: random.Random, undo: ExitStack
    ) -> None:
        backend.check()
        self.tally = Tally()
        self._chance = chance
        self._early: dict[int, float] = {}
        self._store = None
        if backend.name == DEFAULT_BACKEND:
            self._store = undo.enter_context(closing(TorchStore()))
        self.faults = possible(backend.capabilities, self._store is not None)
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        self._jobs: list[Job] = []
        for number in range(jobs):
            own = folder / str(number)
            own.mkdir()
            job = Job(f"soak-{number}", backend, own, self._store)
            self._jobs.append(undo.enter_context(closing(job)))
        if self._store is not None:
            self._store.await_start()  # torch takes seconds, and the ranks have started meanwhile

    def deal(self) -> list[list[str]]:
        """Return every fault, shared out: for each generation, one for each job."""
        return deal(self.faults, len(self._jobs), self._chance)

    def run_generation(self, faults: list[str]) -> None:
        """Run one generation of each job, and check what must hold.

        Raises:
            AssertionError: A guarantee did not hold.
        """
        tally = self.tally
        tally.generations += 1
        scenes = [
            job.begin(tally.generations, name, self._chance)
            for job, name in zip(self._jobs, faults, strict=True)
        ]
        if FAULTS[faults[0]].store == "of both jobs":
            scenes[0].await_round = of_both(self._jobs)
            del scenes[1:]
            tally.faults[faults[0]] += 1
        else:
            tally.faults.update(faults)
        for trouble in [self._start_trouble(*each) for each in zip(scenes, faults, strict=False)]:
            trouble.join()
        for job in self._jobs:
            try:
                job.end()
            except AssertionError as error:
                raise AssertionError(f"{job.job_id}: {error}") from error
        tally.rounds = sum(job.rounds for job in self._jobs)
        self._check_state()

    def _start_trouble(self, scene: Scene, fault: str) -> threading.Thread:
        happens, chance = FAULTS[fault].happens, random.Random(self._chance.random())
        trouble = threading.Thread(target=happens or (lambda *_: None), args=(scene, chance))
        trouble.start()
        return trouble

    def _check_state(self) -> None:
        """Check that nothing grows."""
        memory: dict[int, float] = {}
        for job in self._jobs:
            memory |= job.resident_mb()
        if self._store is not None:
            keys = self._store.count_keys()
            assert keys <= MOST_KEYS * len(self._jobs), f"{keys} keys in the store"
            self.tally.most_keys = max(self.tally.most_keys, keys)
            memory |= dict([self._store.resident_mb()])
        for pid, size in memory.items():
            growth = size - self._early.setdefault(pid, size)
            assert growth < MOST_GROWTH_MB, f"process {pid} has grown by {growth:.0f} MiB"
            self.tally.growth_mb = max(self.tally.growth_mb, growth)


def soak(
    seconds: float = math.inf,
    times: float = math.inf,
    *,
    seed: int | None = None,
    backend: NamedBackend | None = None,
    jobs: int = 2,
    quiet: bool = False,
) -> Tally:
    """Make trouble for a number of seconds, or until every fault has happened a number of times.

    Raises:
        AssertionError: A guarantee did not hold; the message says in which generation.
        BarrierError: The backend cannot be tested.
    """
    seed = random.randrange(2**32) if seed is None else seed
    deadline = time.monotonic() + seconds
    next_word = 0.0
    with ExitStack() as undo:
        soaking = Soak(backend or NamedBackend(DEFAULT_BACKEND), jobs, random.Random(seed), undo)
        tally, dealt = soaking.tally, soaking.deal()
        while time.monotonic() < deadline and times > 0:
            faults = dealt.pop()
            try:
                soaking.run_generation(faults)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(
                    f"generation {tally.generations}, faults {faults}, seed {seed}: {error}"
                ) from error
            if not dealt:
                times -= 1
                dealt = soaking.deal()
            if not quiet and time.monotonic() > next_word:
                next_word = time.monotonic() + 5
                print(f"{max(deadline - time.monotonic(), 0):4.0f} s left: {tally}", flush=True)
    return tally


def main() -> None:
    """Soak for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--jobs", type=int, default=2, help="1 for a backend that does not tell jobs apart"
    )
    add_options(parser, DEFAULT_BACKEND, "to be tested")
    options = parser.parse_args()
    backend = NamedBackend(options.backend, dict(options.arguments))
    try:
        tally = soak(options.seconds, seed=options.seed, backend=backend, jobs=options.jobs)
    except BarrierError as error:
        raise SystemExit(f"{backend.name} cannot be tested: {error}") from error
    except AssertionError as error:
        raise SystemExit(f"a guarantee did not hold: {error}") from error
    print(f"all guarantees held: {tally}")


if __name__ == "__main__":
    main()
