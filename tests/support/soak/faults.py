"""What can go wrong in the soak test, and what may come of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from barrier_core.agreement.keys import Keys
from barrier_core.capability import Capability
from barrier_core.testing.rank_processes import RankProcesses
from tests.support.slow_proxy import SlowProxy
from tests.support.soak.rank_side import PREFIX, TIMEOUT_SECS, WORLD_SIZE
from tests.support.soak.torch_store import TorchStore

SLOWEST_ANSWER_SECS = 2.7


@dataclass
class Scene:
    """Where a fault from outside happens."""

    job_id: str
    generation: int
    at_round: int
    culprit: int
    ranks: RankProcesses
    store: TorchStore | None
    proxy: SlowProxy | None
    await_round: Callable[[int], None]
    """Returns once all ranks of the job, or of both if it is the fault of both, have come to a
    round, or the job has ended."""

    def await_its_round(self) -> None:
        """Return once the round has come; not before all ranks have joined."""
        self.await_round(max(self.at_round, 2))


# Faults that come from outside: see `Fault.happens`.


def _stop_a_rank(scene: Scene, chance: random.Random) -> None:
    time.sleep(chance.random() * 0.2)
    scene.ranks.stop(scene.culprit)
    time.sleep(chance.random() * 0.5)
    scene.ranks.cont(scene.culprit)


def _kill_all_ranks(scene: Scene, chance: random.Random) -> None:
    time.sleep(chance.random() * 0.2)
    for rank in range(WORLD_SIZE):
        scene.ranks.kill(rank)


def _stop_the_store(scene: Scene, chance: random.Random) -> None:
    assert scene.store is not None
    time.sleep(chance.random() * 0.2)
    scene.store.stop()
    time.sleep(chance.random() * 0.5)
    scene.store.cont()


def _start_the_store_anew(scene: Scene, chance: random.Random) -> None:
    assert scene.store is not None
    scene.await_its_round()
    scene.store.start_anew()


def _empty_the_store(scene: Scene, chance: random.Random) -> None:
    assert scene.store is not None
    scene.await_its_round()
    scene.store.forget("")


def _forget_the_job(scene: Scene, chance: random.Random) -> None:
    assert scene.store is not None
    scene.await_its_round()
    scene.store.forget(_keys(scene).job)


def _forget_a_round(scene: Scene, chance: random.Random) -> None:
    assert scene.store is not None
    scene.await_its_round()
    scene.store.forget_newest_round(f"{_keys(scene).base}/")


def _slow_the_store(scene: Scene, chance: random.Random) -> None:
    assert scene.proxy is not None
    scene.await_its_round()
    scene.proxy.delay_secs = chance.random() * SLOWEST_ANSWER_SECS
    time.sleep(chance.random() * 1.5 * TIMEOUT_SECS)
    scene.proxy.delay_secs = 0.0


def _keys(scene: Scene) -> Keys:
    return Keys(PREFIX, f"{scene.generation}.0", scene.job_id)


@dataclass(frozen=True)
class Fault:
    """What may come of a fault, and what it takes."""

    kinds: frozenset[str | None]
    """The kinds of verdict that it may lead to; None: all rounds pass. Where the store may be lost,
    a rank may have "store" beside the verdict of the others."""
    needs: Capability = Capability.NONE
    """Without which it makes no sense."""
    ends: Literal["nobody", "the culprit", "all"] = "nobody"
    """Whose processes end."""
    names_culprit: bool = False
    """Whether the verdict must name the culprit as missing."""
    happens: Callable[[Scene, random.Random], None] | None = None
    """Makes it happen, where it comes from outside; the others are in `rank_side._commit`."""
    store: Literal["", "of this job", "of both jobs"] = ""
    """Whose store it is about, if it is about the store."""
    is_long: bool = False
    """Whether ranks may wait until their time is up: two such happen at once, to two jobs."""
    may_blame_anybody: bool = False
    """Whether a rank may be said to be missing that had arrived: "What no barrier can give"."""


def _kinds(*kinds: str | None) -> frozenset[str | None]:
    return frozenset(kinds)


_OURS: Final = "of this job"
_BOTHS: Final = "of both jobs"
_C = Capability
FAULTS: dict[str, Fault] = {
    "none": Fault(_kinds(None)),
    "abort": Fault(_kinds("abort"), _C.ABORT),
    "raise in phase": Fault(_kinds("abort"), _C.ABORT),
    "other tag": Fault(_kinds("mismatch"), _C.TAGS),
    "sleep": Fault(_kinds("timeout"), _C.TIMEOUT, names_culprit=True, is_long=True),
    "close": Fault(_kinds("left"), _C.LIVENESS, names_culprit=True),
    "exit": Fault(_kinds("left"), _C.LIVENESS, ends="the culprit", names_culprit=True),
    "kill": Fault(_kinds("dead"), _C.LIVENESS, ends="the culprit", names_culprit=True),
    "fork": Fault(_kinds(None)),
    "fork in phase": Fault(_kinds(None), _C.ABORT),
    "fork and kill": Fault(_kinds("dead"), _C.LIVENESS, ends="the culprit", names_culprit=True),
    "stop for a moment": Fault(_kinds(None), happens=_stop_a_rank),
    "restart": Fault(_kinds(), _C.GENERATIONS, ends="all", happens=_kill_all_ranks),
    "stop the store for a moment": Fault(_kinds(None), happens=_stop_the_store, store=_BOTHS),
    "slow store": Fault(
        # A rank that has lost the store tells the others: an abort.
        _kinds(None, "timeout", "store", "abort"),
        happens=_slow_the_store,
        store=_OURS,
        is_long=True,
    ),
    "store starts anew": Fault(_kinds(None, "store"), happens=_start_the_store_anew, store=_BOTHS),
    "store is emptied": Fault(_kinds(None, "store"), happens=_empty_the_store, store=_BOTHS),
    "store forgets the job": Fault(_kinds(None, "store"), happens=_forget_the_job, store=_OURS),
    "store forgets a round": Fault(
        _kinds(None, "store", "timeout", "abort"),
        happens=_forget_a_round,
        store=_OURS,
        is_long=True,
        may_blame_anybody=True,
    ),
}
"""All faults: the one description of what each may lead to."""


def possible(capabilities: Capability, has_torch_store: bool) -> list[str]:
    """Return the faults that make sense with a backend."""
    return [
        name
        for name, fault in FAULTS.items()
        if fault.needs in capabilities and (has_torch_store or not fault.store)
    ]


def deal(names: Sequence[str], jobs: int, chance: random.Random) -> list[list[str]]:
    """Share the faults out among the jobs: for each generation, one for each job."""
    both = [[name] * jobs for name in names if FAULTS[name].store == _BOTHS]
    single = [name for name in names if FAULTS[name].store != _BOTHS]
    chance.shuffle(single)
    single.sort(key=lambda name: not FAULTS[name].is_long)
    single += ["none"] * (-len(single) % jobs)
    dealt = both + [single[first : first + jobs] for first in range(0, len(single), jobs)]
    chance.shuffle(dealt)
    return dealt
