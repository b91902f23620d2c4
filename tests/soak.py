"""Random faults and random delays for as long as wanted, every guarantee checked all the time.

    python tests/soak.py --seconds 600

Four ranks go through generation after generation of one barrier over a store that outlives them. In
each generation one of the faults below happens in a random round, and all ranks must agree on what
became of it. Every fault has happened before one happens again. The store's number of keys and all
processes' memory must stay flat.
"""

from __future__ import annotations

import argparse
import math
import mmap
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Rank processes import this module by its full name.
sys.path.insert(0, str(Path(__file__).parents[1]))

from barrier_core import BarrierError, BarrierFailedError, Verdict, create_barrier
from barrier_core.testing.rank_processes import RankEndedError, RankProcesses, state

WORLD_SIZE = 4
ROUNDS = 30
TIMEOUT_SECS = 3.0
GRACE_SECS = 7.0
"""By how much a wait may exceed its limit: a busy machine, and a store that stands still."""
KINDS: dict[str, set[str | None]] = {
    "none": {None},
    "abort": {"abort"},
    "raise in phase": {"abort"},
    "other tag": {"mismatch"},
    "sleep": {"timeout"},
    "close": {"left"},
    "exit": {"left"},
    "kill": {"dead"},
    "stop for a moment": {None},
    "stop the store for a moment": {None},
}
"""Faults, and the kinds of verdict they may lead to; None: all rounds pass."""
MOST_KEYS = 400
"""Two generations' rosters and heartbeats, and the rounds that have not been collected."""
MOST_GROWTH_MB = 30


@dataclass
class Outcome:
    """What one rank made of a generation."""

    passed: int
    verdict: Verdict | None
    longest_wait_secs: float = field(compare=False)


@dataclass
class Tally:
    """What a soak has seen."""

    generations: int = 0
    rounds: int = 0
    most_keys: int = 0
    growth_mb: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


# What runs in the rank processes.


def go_through_rounds(
    rank: int, generation: int, fault: str | None, at_round: int, store_port: int, entered_path: str
) -> Outcome:
    """Go through a generation's rounds; be the culprit if a fault is given."""
    os.environ.update(
        TORCHELASTIC_USE_AGENT_STORE="True", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store_port)
    )
    barrier = create_barrier(
        "tcp_store",
        global_rank=rank,
        global_world_size=WORLD_SIZE,
        barrier_prefix="soak",
        generation=str(generation),
        timeout_secs=TIMEOUT_SECS,
        heartbeat_secs=0.5,
    )
    passed, longest_wait = 0, 0.0
    entered = state.setdefault("entered", Entered(entered_path))
    try:
        for number in range(1, ROUNDS + 1):
            time.sleep(random.random() ** 6 * 0.05)
            tag = "rest" if number % 2 else ""
            if fault is not None and number == at_round:
                tag = commit(fault, barrier, tag)
            entered.enter(rank, generation, number)
            started = time.monotonic()
            try:
                barrier.execute_barrier(tag=tag)
            finally:
                longest_wait = max(longest_wait, time.monotonic() - started)
            entered.check(generation, number)
            passed = number
        verdict = None
    except BarrierFailedError as error:
        verdict = error.verdict
    barrier.close()
    return Outcome(passed, verdict, longest_wait)


def commit(fault: str, barrier: Any, tag: str) -> str:
    """Do what the fault says; return the tag to go on with."""
    if fault == "abort":
        barrier.abort("had enough")
    elif fault == "raise in phase":
        try:
            with barrier.phase(tag):
                raise OSError("disk full")
        except OSError:
            pass
    elif fault == "other tag":
        return "something else"
    elif fault == "sleep":
        # Far beyond the limit: if the whole machine stood still around it, this rank would come as
        # the others wake up, and the round would rightly pass.
        time.sleep(TIMEOUT_SECS + 3.0)
    elif fault == "close":
        barrier.close()
        raise BarrierFailedError(Verdict("left", barrier.round + 1))
    elif fault == "exit":
        sys.exit(0)
    elif fault == "kill":
        # At any time from now on: before it arrives, while it waits, or in a later round.
        killer = threading.Timer(random.random() * 0.02, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    return tag


def resident_mb(rank: int) -> float:
    """Return how much memory this process has, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def serve_store(rank: int) -> int:
    """Start a store; return its port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    # On an address that is in every hosts file: torch's server looks up its clients' names, and a
    # slow name server would stop it for seconds.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    state["server"] = TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return int(state["server"].port)


def count_keys(rank: int) -> int:
    """Return the number of keys in the store."""
    return int(state["server"].num_keys())


class Entered:
    """Which round each rank has entered: memory that all ranks share, beside the store."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            # Not by struct, which writes zeros first: a rank may be stopped right after that.
            self._stamps = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def enter(self, rank: int, generation: int, number: int) -> None:
        """Note, before arriving, that a rank comes to a round."""
        self._stamps[rank] = self._stamp(generation, number)

    def check(self, generation: int, number: int) -> None:
        """Check, after passing, that all ranks had come."""
        stamps = self._stamps.tolist()
        assert min(stamps) >= self._stamp(generation, number), f"early release: {stamps}"

    @staticmethod
    def _stamp(generation: int, number: int) -> int:
        return generation * 1_000_000 + number


# What runs in the process that makes trouble.


def soak(
    seconds: float = math.inf,
    generations: float = math.inf,
    seed: int | None = None,
    quiet: bool = False,
) -> Tally:
    """Make trouble for a number of seconds or of generations; return what was seen.

    Raises:
        AssertionError: A guarantee did not hold; the message says in which generation.
    """
    seed = random.randrange(2**32) if seed is None else seed
    chance = random.Random(seed)
    tally = Tally()
    deadline = time.monotonic() + seconds
    with (
        tempfile.TemporaryDirectory() as folder,
        RankProcesses(1, timeout_secs=60) as store,
        RankProcesses(WORLD_SIZE) as ranks,
    ):
        entered = Path(folder) / "entered"
        entered.write_bytes(bytes(8 * WORLD_SIZE))
        port = store.run(0, serve_store)
        early: dict[int, float] = {}
        next_word = 0.0
        faults: list[str] = []
        while time.monotonic() < deadline and tally.generations < generations:
            tally.generations += 1
            faults = faults or chance.sample(list(KINDS), len(KINDS))
            fault = faults.pop()
            try:
                run_generation(ranks, store, tally, fault, chance, (port, str(entered)))
            except AssertionError as error:
                raise AssertionError(
                    f"generation {tally.generations}, fault {fault!r}, seed {seed}: {error}"
                ) from error
            keys = store.run(0, count_keys)
            assert keys <= MOST_KEYS, f"{keys} keys after generation {tally.generations}"
            tally.most_keys = max(tally.most_keys, keys)
            ranks.refresh()
            # By pid: a rank that was killed starts from nothing again.
            memory = {ranks.pid(rank): ranks.run(rank, resident_mb) for rank in range(WORLD_SIZE)}
            memory[store.pid(0)] = store.run(0, resident_mb)
            for pid, size in memory.items():
                growth = size - early.setdefault(pid, size)
                assert growth < MOST_GROWTH_MB, f"process {pid} has grown by {growth:.0f} MiB"
                tally.growth_mb = max(tally.growth_mb, growth)
            if not quiet and time.monotonic() > next_word:
                next_word = time.monotonic() + 5
                left = max(deadline - time.monotonic(), 0)
                print(f"{left:4.0f} s left: {describe(tally)}", flush=True)
    return tally


def run_generation(
    ranks: RankProcesses,
    store: RankProcesses,
    tally: Tally,
    fault: str,
    chance: random.Random,
    place: tuple[int, str],
) -> None:
    """Run one generation with one fault, and check that its ranks agree."""
    tally.faults[fault] += 1
    culprit = chance.randrange(WORLD_SIZE)
    at_round = chance.randrange(1, ROUNDS - 5)
    calls = [
        ranks.start(
            rank,
            go_through_rounds,
            tally.generations,
            fault if rank == culprit else None,
            at_round,
            *place,
        )
        for rank in range(WORLD_SIZE)
    ]
    if fault.startswith("stop"):
        victims, victim = (store, 0) if "store" in fault else (ranks, culprit)
        time.sleep(chance.random() * 0.2)
        victims.stop(victim)
        time.sleep(chance.random() * 0.5)
        victims.cont(victim)
    outcomes: list[Outcome] = []
    for rank, call in enumerate(calls):
        error = call.error(timeout_secs=30)
        if error is None:
            if not (rank == culprit and fault == "close"):
                outcomes.append(call.result())
        elif not (rank == culprit and isinstance(error, RankEndedError)):
            raise AssertionError(f"rank {rank}: {error!r}") from error
    tally.rounds += max(outcome.passed for outcome in outcomes)
    assert all(outcome == outcomes[0] for outcome in outcomes), f"split: {outcomes}"
    longest = max(outcome.longest_wait_secs for outcome in outcomes)
    assert longest < TIMEOUT_SECS + GRACE_SECS, f"a rank has waited for {longest:.1f} s"
    verdict = outcomes[0].verdict
    kind = verdict.kind if verdict else None
    assert kind in KINDS[fault], f"{verdict}"
    if kind in ("dead", "left", "timeout"):
        assert verdict is not None
        assert culprit in [status.rank for status in verdict.missing], f"{verdict}"


def describe(tally: Tally) -> str:
    """Say what has been seen so far."""
    return (
        f"{tally.generations} generations, {tally.rounds} rounds, "
        f"{sum(tally.faults.values()) - tally.faults['none']} faults; at most {tally.most_keys} "
        f"keys, {tally.growth_mb:.1f} MiB growth"
    )


def main() -> None:
    """Soak for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    try:
        print(f"all guarantees held: {describe(soak(options.seconds, seed=options.seed))}")
    except (AssertionError, BarrierError) as error:
        raise SystemExit(f"a guarantee did not hold: {error}") from error


if __name__ == "__main__":
    # Under its real name, by which rank processes import it.
    from tests.soak import main as soak_main

    soak_main()
