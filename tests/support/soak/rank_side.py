"""What the soak test runs in the rank processes."""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barrier_core import BarrierFailedError, BarrierUsageError, Verdict
from barrier_core.capability import Capability
from barrier_core.testing.rank_processes import wait_until
from tests.support.by_name import NamedBackend

WORLD_SIZE = 4
ROUNDS = 30
TIMEOUT_SECS = 3.0
PREFIX = "soak"
_VERDICT_SECS = 30.0
_CHILD_LIVES_SECS = 300
"""How long a forked child lives at most, whatever becomes of the soak test."""
_REFUSED = 3
"""Exit code of a child whose call was refused."""


@dataclass(frozen=True)
class Part:
    """What a rank has to do in a generation."""

    backend: NamedBackend
    job_id: str
    generation: int
    folder: Path
    """Of the job: what its ranks have entered, and which children they have left alive."""
    store_port: int | None
    """Port of a TCPStore that outlives the ranks, if that is where they meet."""
    fault: str | None
    """What this rank does wrong, if it does."""
    at_round: int


@dataclass
class Outcome:
    """What one rank made of a generation."""

    passed: int
    verdict: Verdict | None
    longest_wait_secs: float = field(compare=False)
    entered_at: float = field(compare=False)
    """When it came to its last round, in monotonic seconds."""


class Entered:
    """Which round each rank of a job has entered: memory that its ranks share, beside the store.

    Args:
        folder: The job's.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "entered"
        if not path.exists():
            path.write_bytes(bytes(8 * (WORLD_SIZE + 1)))
        with path.open("r+b") as file:
            # Not by struct, which writes zeros first: a rank may be stopped right after that.
            self._stamps = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def enter(self, rank: int, generation: int, number: int) -> None:
        """Note, before arriving, that a rank comes to a round."""
        self._stamps[rank] = self._stamp(generation, number)

    def check(self, generation: int, number: int) -> None:
        """Check, after passing, that all ranks had come."""
        stamps = self._ranks()
        assert min(stamps) >= self._stamp(generation, number), f"early release: {stamps}"

    def all_have_entered(self, generation: int, number: int) -> bool:
        """Whether all ranks have come to a round."""
        return min(self._ranks()) >= self._stamp(generation, number)

    def note_verdict(self, generation: int) -> None:
        """Note that a rank has been told that a round of a generation is broken."""
        self._stamps[WORLD_SIZE] = generation

    def await_verdict(self, generation: int) -> None:
        """Return once a rank has been told so."""
        wait_until(lambda: self._stamps[WORLD_SIZE] == generation, "a verdict", _VERDICT_SECS)

    def _ranks(self) -> list[int]:
        return self._stamps[:WORLD_SIZE].tolist()

    @staticmethod
    def _stamp(generation: int, number: int) -> int:
        return generation * 1_000_000 + number


def go_through_rounds(rank: int, part: Part) -> Outcome:
    """Go through a generation's rounds; be the culprit if a fault is given."""
    if part.store_port is not None:
        os.environ.update(
            TORCHELASTIC_USE_AGENT_STORE="True",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(part.store_port),
        )
    barrier = part.backend.make(
        rank,
        WORLD_SIZE,
        part.job_id,
        str(part.generation),
        barrier_prefix=PREFIX,
        timeout_secs=TIMEOUT_SECS,
        heartbeat_secs=0.5,
    )
    passed, longest_wait, started = 0, 0.0, 0.0
    entered = Entered(part.folder)
    try:
        for number in range(1, ROUNDS + 1):
            time.sleep(random.random() ** 6 * 0.05)
            tag = "rest" if number % 2 else ""
            go = barrier.execute_barrier
            if part.fault is not None and number == part.at_round:
                tag, go = _commit(part, barrier, tag, entered)
            entered.enter(rank, part.generation, number)
            started = time.monotonic()
            try:
                go(tag=tag)
            finally:
                longest_wait = max(longest_wait, time.monotonic() - started)
            entered.check(part.generation, number)
            passed = number
        verdict = None
    except BarrierFailedError as error:
        verdict = error.verdict
        entered.note_verdict(part.generation)
    barrier.close()
    return Outcome(passed, verdict, longest_wait, started)


def _commit(
    part: Part, barrier: Any, tag: str, entered: Entered
) -> tuple[str, Callable[..., None]]:
    """Do what the fault says; return the tag to go on with, and how to go through the round."""
    fault = part.fault
    if fault == "abort":
        barrier.abort("had enough")
    elif fault == "raise in phase":
        try:
            with barrier.phase(tag):
                raise OSError("disk full")
        except OSError:
            pass
    elif fault == "other tag":
        tag = "something else"
    elif fault == "sleep":
        entered.await_verdict(part.generation)
    elif fault == "slow store" and random.random() < 0.5:
        # The others' time may run out while the answers are slow, or not.
        time.sleep(TIMEOUT_SECS)
    elif fault == "close":
        barrier.close()
        raise BarrierFailedError(Verdict("left", barrier.round + 1))
    elif fault == "exit":
        sys.exit(0)
    elif fault == "kill":
        _kill_soon()
    elif fault == "fork":
        _fork_a_child_that_meddles(barrier)
    elif fault == "fork in phase":
        return tag, lambda tag: _fork_in_phase(barrier, tag)
    elif fault == "fork and kill":
        _fork_a_child_that_stays(part.folder)
        _kill_soon()
    return tag, barrier.execute_barrier


def _kill_soon() -> None:
    """Die at any time from now on: before the rank arrives, while it waits, or in a later round."""
    killer = threading.Timer(random.random() * 0.02, os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    killer.start()


def _fork() -> int:
    """Fork a child that does not live for ever."""
    child = os.fork()
    if child == 0:
        signal.alarm(_CHILD_LIVES_SECS)
    return child


def _check_end(child: int, expected: int, what: str) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == expected, f"a child that {what} ended with {code}, not {expected}"


def _fork_a_child_that_meddles(barrier: Any) -> None:
    """Fork a child that uses its parent's barrier, as a data loader's worker may."""
    acts: list[tuple[str, int, Callable[[], object]]] = [
        ("arrives", _REFUSED, barrier.execute_barrier),
        ("closes", 0, barrier.close),
        ("exits", 0, sys.exit),
    ]
    if Capability.ABORT in barrier.capabilities:
        acts.append(("aborts", _REFUSED, lambda: barrier.abort("by a child")))
    what, expected, act = random.choice(acts)
    child = _fork()
    if child:
        return _check_end(child, expected, what)
    try:
        act()
    except BarrierUsageError:
        os._exit(_REFUSED)
    os._exit(0)


def _fork_in_phase(barrier: Any, tag: str) -> None:
    """Go through a round by a phase, in which a child is forked that leaves it, too."""
    parent, exits = os.getpid(), random.random() < 0.5
    try:
        with barrier.phase(tag):
            child = _fork()
            if child:
                _check_end(child, 0 if exits else _REFUSED, "leaves a phase")
            elif exits:
                sys.exit(0)
    except BarrierUsageError:
        if os.getpid() == parent:
            raise
        os._exit(_REFUSED)
    if os.getpid() != parent:
        os._exit(0)


def _fork_a_child_that_stays(folder: Path) -> None:
    """Fork a child that outlives its parent; a file of the folder has its pid for a name."""
    child = _fork()
    if child == 0:
        time.sleep(_CHILD_LIVES_SECS)
        os._exit(0)
    (folder / f"child-{child}").touch()


def resident_mb(rank: int) -> float:
    """Return how much memory this process has, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
