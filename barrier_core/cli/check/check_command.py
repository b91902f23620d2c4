"""``barrier check``: whether a barrier works on these machines, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from barrier_core.agreement.barrier import StoreBarrier
from barrier_core.cli.check.figures import Figures, microseconds, progress, show_figures
from barrier_core.cli.check.started_ranks import be_a_rank, run_ranks
from barrier_core.cli.chosen import Chosen, arrive, choosing_options, leave
from barrier_core.cli.exit_status import FailedError, WrongUseError
from barrier_core.cli.output import show
from barrier_core.contract import Barrier
from barrier_core.errors import BarrierConfigError, BarrierError
from barrier_core.launcher import RankInfo

_TAG = "barrier check"


@click.command("check")
@choosing_options
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="How often to go through the barrier.",
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    metavar="RANKS",
    help="Start this many ranks on this machine, instead of being one that a launcher started.",
)
@click.option("--report-to", type=int, hidden=True)
def command(
    config_file: Path | None,
    barrier_type: str | None,
    arguments: tuple[str, ...],
    rounds: int,
    count: int | None,
    report_to: int | None,
) -> None:
    """Go through a barrier many times, and show how long that takes.

    \b
    Every rank runs it, started by srun, torchrun or mpirun; or -n starts the ranks on one machine:
        srun barrier check --config barrier.toml
        barrier check -n 4 --type tcp_store --arg tcpstore_port=29600

    A time is how long a rank waits in a round, from its arrival until it goes on, by its own clock.
    No times of two hosts are compared. The rank that arrives last waits least: so the table shows
    how often each rank was the last, in the last 1000 rounds. Rank 0 writes it.

    Only a barrier over a store can collect the times of all ranks. With another barrier, under a
    launcher, each rank writes a line. The others wait for the rank with the shortest times.

    The exit status is 0 if all rounds have passed, 1 if not (stderr says why), and 2 if the command
    line, the config or the environment is wrong.
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    try:
        chosen = Chosen.by(config_file, barrier_type, arguments)
        if count is None:
            chosen.check_arguments()
        else:
            _refuse_launcher()
            chosen.check_arguments(RankInfo(0, count))
    except BarrierConfigError as error:
        raise WrongUseError(str(error)) from error
    except BarrierError as error:
        raise FailedError(str(error)) from error

    if count is not None:
        options = _options_again(config_file, barrier_type, arguments, rounds)
        run_ranks(options, count, rounds)
    elif report_to is not None:

        def measure(passed: Callable[[int], None]) -> list[float]:
            with _opened(chosen) as barrier:
                return _measure(barrier, rounds, passed)

        be_a_rank(measure, report_to)
    else:
        try:
            _be_one_of_a_launcher(chosen, rounds)
        except BarrierError as error:
            raise FailedError(str(error)) from error


@contextmanager
def _opened(chosen: Chosen) -> Iterator[Barrier]:
    barrier = chosen.make()
    try:
        yield barrier
    finally:
        leave(barrier)


def _measure(barrier: Barrier, rounds: int, passed: Callable[[int], None]) -> list[float]:
    """Go through the barrier; return the seconds waited in each round.

    Args:
        barrier: The barrier.
        rounds: How often to go through it.
        passed: Called after every round with the number of rounds so far.
    """
    waits = []
    # Ranks arrive here seconds apart. They leave together, and so arrive together from then on.
    arrive(barrier, tag=_TAG)
    for number in range(1, rounds + 1):
        began = time.perf_counter()
        arrive(barrier, tag=_TAG)
        waits.append(time.perf_counter() - began)
        passed(number)
    return waits


def _be_one_of_a_launcher(chosen: Chosen, rounds: int) -> None:
    rank_info = RankInfo.from_environment()
    with _opened(chosen) as barrier:
        with progress(rounds, visible=rank_info.global_rank == 0) as advance:
            waits = _measure(barrier, rounds, advance)
        figures = Figures.of(rank_info.host, waits)
        if isinstance(barrier, StoreBarrier):
            encoded = barrier.gather(msgspec.json.encode(figures).decode(), tag=_TAG)
            if encoded:
                show_figures([msgspec.json.decode(each, type=Figures) for each in encoded])
            return
    # In one write: all ranks share the launcher's output.
    show(
        f"rank {rank_info.global_rank} of {rank_info.global_world_size} on {rank_info.host} "
        f"(pid {rank_info.pid}): {rounds} rounds, shortest {microseconds(min(waits))} us, "
        f"median {microseconds(figures.median)} us, p99 {microseconds(figures.p99)} us"
    )
    if rank_info.global_rank == 0:
        show(
            f"Which rank came last how often is not known: {chosen.config.barrier_type} has no "
            "store to collect the times. The others wait for the rank with the shortest times."
        )


def _refuse_launcher() -> None:
    try:
        rank_info = RankInfo.from_environment()
    except BarrierConfigError:
        return
    if rank_info.global_world_size > 1:
        raise BarrierConfigError(
            f"-n starts the ranks, but this process is rank {rank_info.global_rank} of "
            f"{rank_info.global_world_size} already: leave out -n, or the launcher"
        )


def _options_again(
    config_file: Path | None, barrier_type: str | None, arguments: Sequence[str], rounds: int
) -> list[str]:
    options = [f"--arg={argument}" for argument in arguments]
    if config_file is not None:
        options.append(f"--config={config_file}")
    if barrier_type is not None:
        options.append(f"--type={barrier_type}")
    return [*options, f"--rounds={rounds}"]
