"""How the server's work grows with the number of ranks: many ranks' lines in few processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from barrier_core import BarrierFailedError
from barrier_core.testing.rank_processes import RankProcesses, state, wait_until
from benchmarks.contender import HOST, connect_tcp_store, serve_tcp_store

STORE = "growth"
BATCH_ROUNDS = 32  # rounds, as on rank 0 of a real barrier
PROCESSES = 8
ABORTER = PROCESSES
"""One more process, for the rank that the others wait for."""
_PATIENCE_SECS = 300.0


@dataclass
class Load:
    """What rounds of one size cost the server."""

    ranks: int
    rounds: int
    micros_per_rank: float
    """Server CPU microseconds per rank and barrier, best of the blocks."""
    keys: int
    """Keys in the store afterwards."""


@dataclass
class Storm:
    """What it cost that all ranks ran out of time together."""

    ranks: int
    timeout_secs: float
    waiting_cpu_secs: float
    """Server CPU from the arrivals to just before the deadline."""
    failing_cpu_secs: float
    """Server CPU from then until all ranks had the verdict."""
    last_verdict_secs: float
    """How long after its deadline the last rank had it."""
    verdicts: int
    """How many different ones; 1 is what a barrier promises."""
    ranks_with_verdict: int


@dataclass
class Abort:
    """How fast an abort reached all ranks."""

    ranks: int
    """That were waiting."""
    last_verdict_secs: float
    """How long after the call of ``abort`` the last rank had the verdict."""
    verdicts: int
    """How many different ones; 1 is what a barrier promises."""
    ranks_with_verdict: int


@dataclass
class Growth:
    """All of it."""

    loads: list[Load]
    slope: float
    """Change of the CPU time per rank for every doubling of the ranks, in microseconds."""
    storm: Storm | None
    abort: Abort | None


class Outcome(NamedTuple):
    """What a rank has waited for."""

    waited_secs: float
    at: float
    """When it ended, in monotonic seconds, which all processes of a host share."""
    verdict: str | None


def measure(
    sizes: Sequence[int],
    barriers: int,
    storm: tuple[int, float] | None,
    abort: int | None,
    progress: Callable[[str], None],
) -> Growth:
    """Measure rounds of each size (arrivals per block are given), a storm of time-outs, an abort.

    Args:
        sizes: Numbers of ranks.
        barriers: Arrivals, over all ranks, in one block.
        storm: Number of ranks and their timeout in seconds; None: none.
        abort: Number of ranks that an abort reaches; None: none.
        progress: Called with what is measured next.
    """
    with RankProcesses(1, timeout_secs=_PATIENCE_SECS) as server:
        with RankProcesses(1, timeout_secs=_PATIENCE_SECS) as client:
            loads = []
            for size in sizes:
                progress(f"growth: {size} ranks")
                loads.append(_measure_load(server, client, size, max(barriers // size, 2)))
        storm_outcome = abort_outcome = None
        if storm is not None:
            progress(f"growth: {storm[0]} ranks time out together")
            with RankProcesses(PROCESSES, timeout_secs=_PATIENCE_SECS) as clients:
                storm_outcome = _measure_storm(server, clients, *storm)
        if abort is not None:
            progress(f"growth: an abort reaches {abort} ranks")
            with RankProcesses(PROCESSES + 1, timeout_secs=_PATIENCE_SECS) as clients:
                abort_outcome = _measure_abort(server, clients, abort)
    return Growth(loads, _slope(loads), storm_outcome, abort_outcome)


def _measure_load(server: RankProcesses, client: RankProcesses, size: int, rounds: int) -> Load:
    port = server.run(0, serve)
    client.run(0, open_clients, port, size)
    client.run(0, run_rounds, 2)
    costs = []
    for _ in range(5):
        before = server.run(0, cpu_secs)
        client.run(0, run_rounds, rounds)
        costs.append((server.run(0, cpu_secs) - before) / rounds / size * 1e6)
    keys = server.run(0, count_keys)
    client.run(0, close_clients)
    return Load(size, rounds, min(costs), keys)


def _slope(loads: list[Load]) -> float:
    """Fit a line through the loads over the logarithm of their sizes."""
    from statistics import linear_regression

    if len(loads) < 2:
        return 0.0
    sizes = [(load.ranks).bit_length() - 1 for load in loads]
    return linear_regression(sizes, [load.micros_per_rank for load in loads]).slope


def _measure_storm(
    server: RankProcesses, clients: RankProcesses, ranks: int, timeout_secs: float
) -> Storm:
    port = server.run(0, serve)
    clients.run_all(open_barriers, port, ranks, timeout_secs)
    before = server.run(0, cpu_secs)
    calls = clients.start_all(wait_for_verdicts)
    time.sleep(timeout_secs - 0.5)
    at_deadline = server.run(0, cpu_secs)
    outcomes = [outcome for call in calls for outcome in call.result()]
    after = server.run(0, cpu_secs)
    clients.run_all(close_barriers)
    return Storm(
        ranks,
        timeout_secs,
        at_deadline - before,
        after - at_deadline,
        max(outcome.waited_secs for outcome in outcomes) - timeout_secs,
        *_count(outcomes),
    )


def _measure_abort(server: RankProcesses, clients: RankProcesses, ranks: int) -> Abort:
    port = server.run(0, serve)
    clients.run_all(open_barriers, port, ranks, _PATIENCE_SECS)
    calls = clients.start_all(wait_for_verdicts, ranks=range(PROCESSES))
    aborted_at = clients.run(ABORTER, abort_when_all_wait, ranks)
    outcomes = [outcome for call in calls for outcome in call.result()]
    clients.run_all(close_barriers)
    last = max(outcome.at for outcome in outcomes)
    return Abort(len(outcomes), last - aborted_at, *_count(outcomes))


def _count(outcomes: list[Outcome]) -> tuple[int, int]:
    """Return how many different verdicts there are, and how many ranks have one."""
    verdicts = [outcome.verdict for outcome in outcomes]
    return len(set(verdicts)), sum(verdict is not None for verdict in verdicts)


# What runs in the server's process.


def serve(rank: int) -> int:
    """Start a store; return its port."""
    return serve_tcp_store(STORE)


def cpu_secs(rank: int) -> float:
    """Return the CPU seconds that this process has taken."""
    return time.process_time()


def count_keys(rank: int) -> int:
    """Return the number of keys in the store."""
    return int(state[STORE].num_keys())


# What runs in the clients' processes.


def open_clients(rank: int, port: int, size: int) -> None:
    """Open as many lines as there are ranks."""
    from barrier_tcp_store.wire import TCPStoreClient

    state["clients"] = [TCPStoreClient(HOST, port) for _ in range(size)]
    state["round"] = 0


def run_rounds(rank: int, rounds: int) -> None:
    """Go through rounds with all clients: all arrive, then all are released."""
    from barrier_core.agreement.keys import Keys

    clients = state["clients"]
    keys = Keys("benchmark", "0")
    series = [keys.series(rank_, len(clients), "") for rank_ in range(len(clients))]
    for _ in range(rounds):
        state["round"] += 1
        number = state["round"]
        for rank_, client in enumerate(clients):
            client.arrive(series[rank_], number)
        assert all(client.wait(60.0) for client in clients)
        if number % BATCH_ROUNDS == 0:
            old = [keys.round(past, "") for past in range(number - BATCH_ROUNDS, number)]
            clients[0].remove([key for both in old for key in (both.release, both.log)])


def close_clients(rank: int) -> None:
    """Close the connections."""
    for client in state.pop("clients"):
        client.close()


def open_barriers(process: int, port: int, ranks: int, timeout_secs: float) -> None:
    """Make this process's share of the ranks; one more will be missing, or aborts."""
    from barrier_core import create_barrier

    store = connect_tcp_store(port)
    state["barriers"] = [
        create_barrier(
            "tcp_store",
            global_rank=rank,
            global_world_size=ranks + 1,
            barrier_prefix="storm",
            generation=str(port),
            store=store,
            timeout_secs=timeout_secs,
        )
        for rank in ([ranks] if process == ABORTER else range(process, ranks, PROCESSES))
    ]


def wait_for_verdicts(process: int) -> list[Outcome]:
    """Wait with all of this process's ranks, which they do in vain."""
    outcomes: list[Outcome] = []

    def wait(barrier: object) -> None:
        started = time.monotonic()
        verdict = None
        try:
            barrier.execute_barrier()  # type: ignore[attr-defined]
        except BarrierFailedError as error:
            verdict = str(error.verdict)
        at = time.monotonic()
        outcomes.append(Outcome(at - started, at, verdict))

    threads = [threading.Thread(target=wait, args=(barrier,)) for barrier in state["barriers"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def abort_when_all_wait(process: int, ranks: int) -> float:
    """Abort the round once all others wait in it; return when that was, in monotonic seconds."""
    from barrier_core.agreement.round_log import parse

    (barrier,) = state["barriers"]
    client, log = barrier._client, barrier._keys.round(1, "").log
    wait_until(
        lambda: len(parse(client.read([log])[0] or b"").arrivals) == ranks, f"{ranks} ranks wait"
    )
    at = time.monotonic()
    barrier.abort("as if the disk were full")
    return at


def close_barriers(process: int) -> None:
    """Leave."""
    for barrier in state.pop("barriers"):
        barrier.close()
