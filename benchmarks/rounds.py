"""All contenders side by side: blocks of rounds, interleaved, in the same processes."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from barrier_core.testing.rank_processes import RankProcesses, state
from benchmarks.contender import WARM_UP_ROUNDS, Cost
from benchmarks.contenders import find

_JOIN_SECS = 120.0
_IN_TURN = ("dist_barrier", "dist_collective")
"""Compared round by round: gloo's blocks differ tenfold, and the two by a few percent."""


@dataclass
class Plan:
    """How much is measured."""

    names: Sequence[str]
    world_sizes: Sequence[int]
    blocks: int
    block_secs: float
    shared_server: bool = False
    """Whether all contenders' servers share one process, which starts faster."""


@dataclass
class Blocks:
    """What one contender took, in microseconds per barrier, block by block."""

    title: str
    has_network: bool
    micros: list[float] = field(default_factory=list)
    rank_cpu: list[float] = field(default_factory=list)
    """CPU microseconds per barrier of the median rank."""
    server_cpu: list[float] = field(default_factory=list)
    """CPU microseconds per barrier of the server, where it has a process of its own."""
    in_turn: dict[str, float] = field(default_factory=dict)
    """By contender: how many times as long a round took, the two taking turns round by round."""
    skipped: str | None = None


Results = dict[int, dict[str, Blocks]]
"""By world size and contender."""
Progress = Callable[[str], None]


def obstacles(names: Sequence[str]) -> dict[str, str]:
    """Say which contenders cannot be measured here, and why."""
    found = {name: find(name).obstacle() for name in names}
    return {name: obstacle for name, obstacle in found.items() if obstacle is not None}


def measure(plan: Plan, progress: Progress) -> Results:
    """Measure all contenders at all world sizes."""
    skipped = obstacles(plan.names)
    names = [name for name in plan.names if name not in skipped]
    server_count = 1 if plan.shared_server else len(names)
    results: Results = {}
    progress(f"starting {max(plan.world_sizes)} ranks and {server_count} server processes")
    with (
        RankProcesses(server_count, timeout_secs=_JOIN_SECS) as servers,
        RankProcesses(max(plan.world_sizes), timeout_secs=_JOIN_SECS) as ranks,
    ):
        for world_size in plan.world_sizes:
            found = _measure_world(world_size, plan, names, (servers, ranks), progress)
            results[world_size] = {
                name: found.get(name) or _blank(name, skipped.get(name)) for name in plan.names
            }
    return results


def _measure_world(
    world_size: int,
    plan: Plan,
    names: list[str],
    processes: tuple[RankProcesses, RankProcesses],
    progress: Progress,
) -> dict[str, Blocks]:
    servers, ranks = processes
    world = range(world_size)
    results = {name: _blank(name, None) for name in names}
    rounds: dict[str, int] = {}
    for server, name in enumerate(names):
        progress(f"{world_size} ranks: {name} joins")
        port = servers.run(server % len(servers), serve, name, world_size)
        ranks.run_all(join, name, world_size, port, ranks=world)
        for tried in (20, 100):
            secs = max(cost.wall for cost in ranks.run_all(run_block, name, tried, ranks=world))
            rounds[name] = max(math.ceil(plan.block_secs / secs), 20)
            if secs * tried > plan.block_secs:
                break
    order = list(names)
    for block in range(plan.blocks):
        progress(f"{world_size} ranks: block {block + 1} of {plan.blocks}")
        random.Random(block).shuffle(order)  # nobody always comes after the same neighbour
        for name in order:
            server = names.index(name) % len(servers)
            cpu_before = servers.run(server, cpu_secs)
            costs = ranks.run_all(run_block, name, rounds[name], ranks=world)
            cpu = servers.run(server, cpu_secs) - cpu_before
            results[name].micros.append(max(cost.wall for cost in costs) * 1e6)
            results[name].rank_cpu.append(statistics.median(cost.cpu for cost in costs) * 1e6)
            results[name].server_cpu.append(cpu / (rounds[name] + WARM_UP_ROUNDS) * 1e6)
    if set(_IN_TURN) <= set(names):
        one, other = _IN_TURN
        progress(f"{world_size} ranks: {one} and {other} take turns")
        turns = max(round(4 * plan.block_secs * 1e6 / statistics.median(results[other].micros)), 10)
        ratios = ranks.run_all(take_turns, one, other, turns, ranks=world)
        results[one].in_turn[other] = statistics.median(ratios)
    for name in names:
        ranks.run_all(leave, name, ranks=world)
    return results


def _blank(name: str, skipped: str | None) -> Blocks:
    contender = find(name)
    return Blocks(contender.title, contender.has_network, skipped=skipped)


# What runs in the rank processes.


def serve(_server: int, name: str, world_size: int) -> int:
    """Start a contender's server; return its port."""
    return find(name).serve(world_size)


def join(rank: int, name: str, world_size: int, port: int) -> None:
    """Make a contender on this rank."""
    state[name] = find(name)(rank, world_size, port)


def cpu_secs(_server: int) -> float:
    """Return the CPU seconds that this process has used."""
    return time.process_time()


def run_block(rank: int, name: str, rounds: int) -> Cost:
    """Run a block; return what a round has cost this rank."""
    cost: Cost = state[name].run(rounds)
    return cost


def take_turns(rank: int, one: str, other: str, turns: int) -> float:
    """Go through rounds of two contenders in turn; return the ratio of their median rounds."""
    secs: dict[str, list[float]] = {one: [], other: []}
    for turn in range(turns):
        for name in (one, other) if turn % 2 else (other, one):
            started = time.perf_counter()
            state[name].wait()
            secs[name].append(time.perf_counter() - started)
    return statistics.median(secs[one]) / statistics.median(secs[other])


def leave(rank: int, name: str) -> None:
    """Take a contender down."""
    state.pop(name).leave()
