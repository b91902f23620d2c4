"""What the tests have rank processes do, and the process that serves their stores."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from barrier_core.errors import BarrierError, BrokenBarrierError
from barrier_core.plugin_api import RankStatus, hookimpl, plugin_manager
from barrier_core.testing.rank_processes import state, wait_until
from barrier_core.testing.rank_threads import run_in_threads
from barrier_core.verdict import Verdict
from barrier_tcp_store import TCPStoreBarrier
from barrier_tcp_store.access import TCPStoreAccess
from barrier_tcp_store.hosting import Endpoint, HostedStore

_one_environment = threading.Lock()  # for all threads of a process: one at a time changes it


@dataclass(frozen=True)
class Job:
    """A barrier that several ranks make."""

    prefix: str
    world_size: int = 4
    agent_port: int | None = None
    """Port of a store that outlives the ranks, as torchrun has one; None: rank 0 hosts it."""
    can_count: bool = True
    """False: do as if the server were too old for BARRIER. torch 2.13 is the first that has it, and
    the one that is installed; so this is the only way to see the older ones' fallback."""
    generation: str = "0"
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the barrier."""

    def but(self, **changes: Any) -> Job:
        """The same with other fields; what is no field is an option of the barrier."""
        fields = {name: changes.pop(name) for name in list(changes) if name in vars(self)}
        return replace(self, **fields, options=self.options | changes)

    @property
    def environment(self) -> dict[str, str]:
        """What torchrun sets for a rank that may use its agent's store."""
        if self.agent_port is None:
            return {}
        return {
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.agent_port),
        }

    def make(self, rank: int, **more: Any) -> TCPStoreBarrier:
        """Make the barrier in this process."""
        with _one_environment, mock.patch.dict(os.environ, self.environment):
            return TCPStoreBarrier(
                rank,
                self.world_size,
                self.prefix,
                generation=self.generation,
                **({"timeout_secs": 60} | self.options | more),
            )


def pretend_old_server(job: Job) -> AbstractContextManager[object]:
    """Have barriers that are made meanwhile wait as a server without BARRIER needs it."""
    if job.can_count:
        return nullcontext()
    return mock.patch.object(TCPStoreAccess, "_can_count", return_value=False)


def join(rank: int, job: Job) -> None:
    """Make the barrier and keep it."""
    with pretend_old_server(job):
        state[job.prefix] = job.make(rank)


def join_as(rank: int, job: Job, claimed: int) -> None:
    """Join under another rank's number."""
    join(claimed, job)


def arrive(rank: int, job: Job, timeout_secs: float | None = None, tag: str = "") -> int:
    """Go through the barrier once; return the round's number."""
    barrier: TCPStoreBarrier = state[job.prefix]
    barrier.execute_barrier(timeout_secs, tag)
    return barrier.round


def join_and_arrive_as(rank: int, job: Job, claimed: list[int]) -> None:
    """Be several ranks at once, in threads of one process; arrive as each of them."""
    run_in_threads(lambda other: job.make(other).execute_barrier(), claimed)


def arrive_and_tell(rank: int, job: Job, has_looked: Path) -> None:
    """Arrive; the file ``has_looked`` is there once this rank has looked who is missing."""
    watcher = state[job.prefix]._watcher

    def tell() -> None:
        wait_until(lambda: watcher._slow and watcher._slow.looked.is_set(), "it has looked")
        has_looked.touch()

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        arrive(rank, job)
    finally:
        thread.join()


class _Notes:
    """Writes down who is missing, at each warning, into a file of this rank's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @hookimpl
    def barrier_waiting(self, missing: tuple[RankStatus, ...], reporter: bool) -> None:
        """Write it."""
        assert reporter
        part = self._path.with_suffix(".part")
        part.write_text("; ".join(map(str, missing)))
        part.rename(self._path)


def arrive_and_note_warnings(rank: int, job: Job, directory: Path) -> int:
    """Arrive; what the observers are told meanwhile is noted in the directory."""
    notes = _Notes(directory / str(rank))
    plugin_manager.register(notes)
    try:
        return arrive(rank, job)
    finally:
        plugin_manager.unregister(notes)


def hold_the_interpreter(rank: int, secs: int) -> None:
    """Be in a C call that does not give the interpreter lock back: no thread runs."""
    ctypes.PyDLL(None).sleep(secs)


def report_every(rank: int, job: Job, pause_secs: float, texts: list[str]) -> None:
    """Report progress, with pauses."""
    for text in texts:
        report_progress(rank, job, text)
        time.sleep(pause_secs)


def try_to_arrive(rank: int, job: Job, timeout_secs: float | None = None) -> Verdict | None:
    """Go through the barrier once; return the verdict, None for a round that passed."""
    try:
        arrive(rank, job, timeout_secs)
    except BarrierError as error:
        return getattr(error, "verdict", None)
    return None


def go_through(rank: int, job: Job, rounds: int) -> None:
    """Go through the barrier a number of times."""
    for _ in range(rounds):
        arrive(rank, job)


def close(rank: int, job: Job) -> None:
    """Leave."""
    barrier = state.pop(job.prefix, None)
    if barrier is not None:
        barrier.close()


def abort(rank: int, job: Job, reason: str) -> None:
    """Break the next round."""
    state[job.prefix].abort(reason)


def arrive_and_abort_from_a_thread(rank: int, job: Job, reason: str, go: Path) -> None:
    """Arrive; another thread aborts as soon as the file ``go`` is there."""
    barrier: TCPStoreBarrier = state[job.prefix]

    def abort_soon() -> None:
        wait_until(go.exists, "the test says go")
        barrier.abort(reason)

    thread = threading.Thread(target=abort_soon)
    thread.start()
    try:
        barrier.execute_barrier()
    finally:
        thread.join()


def arrive_and_abort_from_a_signal_handler(rank: int, job: Job, reason: str) -> None:
    """Arrive; SIGUSR2 aborts, as schedulers announce that a job must go."""
    barrier: TCPStoreBarrier = state[job.prefix]
    before = signal.signal(signal.SIGUSR2, lambda number, frame: barrier.abort(reason))
    try:
        barrier.execute_barrier()
    finally:
        signal.signal(signal.SIGUSR2, before)


def fail_in_phase(rank: int, job: Job, tag: str) -> None:
    """Leave a phase by an exception."""
    with state[job.prefix].phase(tag):
        raise OSError("disk full on /ckpt")


def fail_in_with(rank: int, job: Job) -> None:
    """Leave the barrier by an exception."""
    with state[job.prefix]:
        raise OSError("disk full on /ckpt")


def report_progress(rank: int, job: Job, progress: str) -> None:
    """Say how far this rank is."""
    state[job.prefix].report_progress(progress)


def arrive_and_exit(rank: int, job: Job) -> None:
    """Go through the barrier, then end the interpreter without closing anything."""
    arrive(rank, job)
    sys.exit(0)


def exit_without_arriving(rank: int) -> None:
    """End the interpreter without closing anything."""
    sys.exit(0)


def has_imported(rank: int, module: str) -> bool:
    """Whether the rank has imported a module."""
    return module in sys.modules


def host_and_leave_first(
    rank: int, job: Job, ports: list[int], folder: Path
) -> list[tuple[float, float]]:
    """Make, use and close a barrier at each port; rank 0 hosts, and leaves first.

    Returns:
        When this rank began and ended to close each of them, in monotonic seconds.
    """
    ended = []
    for port in ports:
        barrier = job.make(rank, tcpstore_port=port)
        barrier.execute_barrier()
        host_leaves = folder / str(port)
        if rank == 0:
            host_leaves.touch()
        else:
            wait_until(host_leaves.exists, "the host has begun to leave")
            time.sleep(0.003 * rank)
        began = time.monotonic()
        barrier.close()
        ended.append((began, time.monotonic()))
    return ended


def two_barriers_at_once(rank: int, jobs: list[Job], rounds: int) -> None:
    """Go through two barriers in two threads."""
    run_in_threads(lambda job: go_through(rank, job, rounds), jobs)
    assert [state[job.prefix].round for job in jobs] == [rounds, rounds]


def make_use_and_close(
    rank: int, job: Job, times: int, rounds: int = 2, aborts: bool = False
) -> list[int]:
    """Make a barrier, go through it and close it, again and again, each time anew at once.

    Now and then a rank is late to close: it keeps the server of before alive, where those who are
    early must not stay.

    Args:
        rank: This rank.
        job: The barrier.
        times: How often.
        rounds: How often to go through each.
        aborts: Whether one rank breaks it in the end.

    Returns:
        The last round that passed, of each barrier.
    """
    dice = random.Random(f"{rank} of {job.prefix}")
    passed = []
    for number in range(times):
        barrier = job.make(rank)
        for _ in range(rounds):
            barrier.execute_barrier()
        passed.append(barrier.round)
        if aborts:
            if rank == number % job.world_size:
                barrier.abort("once more")
            with pytest.raises(BrokenBarrierError, match="once more"):
                barrier.execute_barrier()
        if dice.random() < 0.4:
            time.sleep(dice.random() * 0.05)
        barrier.close()
    return passed


def make_anew(rank: int, job: Job, begun: Path) -> None:
    """Close the barrier and make it anew; ``begun`` is there once the first is closed."""
    close(rank, job)
    begun.touch()
    join(rank, job)


def can_listen(rank: int, job: Job) -> bool:
    """Whether nobody listens at the job's port any more."""
    try:
        socket.create_server(("127.0.0.1", job.options["tcpstore_port"])).close()
    except OSError:
        return False
    return True


# The process that serves stores which outlive the ranks. Only it and hosting ranks need torch.


def serve_store(rank: int, port: int, use_libuv: bool) -> None:
    """Start one of torch's two servers.

    As rank 0 does, with a socket of one address family. At one for both, which torch makes when
    left to itself, a client is ``::ffff:127.0.0.1``: that is in no hosts file, and so the server's
    thread waits for the DNS at every connection.
    """
    state[f"server {port}"] = HostedStore(Endpoint("127.0.0.1", port), use_libuv)


def count_keys(rank: int, port: int) -> int:
    """Return the number of keys in a store that this process serves."""
    return int(HostedStore._servers[Endpoint("127.0.0.1", port)].store.num_keys())


def end_server(rank: int, port: int) -> None:
    """End a server."""
    state.pop(f"server {port}").release()
