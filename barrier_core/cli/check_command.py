"""``barrier check``: whether a barrier works on these machines, and how fast it is."""

from __future__ import annotations

import math
import os
import selectors
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from barrier_core.cli.chosen import (
    Chosen,
    FailedError,
    WrongUseError,
    arrive,
    choosing_options,
    leave,
)
from barrier_core.cli.output import plain, show
from barrier_core.errors import BarrierConfigError, BarrierError
from barrier_core.ranks import RankInfo, format_ranks

_TAG = "barrier check"
_STDERR = 2
_SHOW_EVERY_SECS = 0.2
# How long after one rank has failed the others may take to say why they fail.
_GRACE_SECS = 10.0

# What other launchers and an outer torchrun have set must not mislead the ranks started here.
_OTHER_LAUNCHERS = ("MASTER_", "OMPI_", "PMI_", "MPI_", "SLURM_", "TORCHELASTIC_")


class _News(msgspec.Struct):
    """What a rank started by ``-n`` tells: how far it is, or, at last, what became of it."""

    rounds: int
    host: str = ""
    waits: list[float] | None = None
    """Seconds in each round; set where all rounds have passed."""
    error: str = ""


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
    """Go through a barrier many times, and tell how long that takes.

    \b
    Every rank runs it, started by srun, torchrun or mpirun; or -n starts the ranks on one machine:
        srun barrier check --config barrier.toml
        barrier check -n 4 --type tcp_store --arg tcpstore_port=29600

    The times are those that a rank waits in a round, from coming to leaving, by its own clock: none
    is compared between hosts. A rank waits least where it comes last. With -n, the table tells how
    often each did; under a launcher each rank writes a line of its own, and the one with the
    shortest times is the one that the others wait for.

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
        _run_ranks(options, count, rounds)
    elif report_to is not None:
        _be_a_rank(chosen, rounds, report_to)
    else:
        _be_one_of_a_launcher(chosen, rounds)


def _measure(chosen: Chosen, rounds: int, passed: Callable[[int], None]) -> list[float]:
    """Make the barrier and go through it; return the seconds waited in each round.

    Args:
        chosen: What to make.
        rounds: How often to go through it.
        passed: Called after every round with the number of rounds so far.
    """
    barrier = chosen.make()
    waits = []
    try:
        # Ranks come here seconds apart. From then on they leave, and so come, together.
        arrive(barrier, tag=_TAG)
        for number in range(1, rounds + 1):
            began = time.perf_counter()
            arrive(barrier, tag=_TAG)
            waits.append(time.perf_counter() - began)
            passed(number)
    finally:
        leave(barrier)
    return waits


# --- one rank of a launcher ----------------------------------------------------------------------


def _be_one_of_a_launcher(chosen: Chosen, rounds: int) -> None:
    place = RankInfo.from_environment()
    try:
        with _progress(rounds, visible=place.global_rank == 0) as advance:
            waits = _measure(chosen, rounds, advance)
    except BarrierError as error:
        raise FailedError(str(error)) from error
    # In one write: all ranks share the launcher's output.
    click.echo(
        f"rank {place.global_rank} of {place.global_world_size} on {place.host} (pid {place.pid}): "
        f"{rounds} rounds, shortest {_microseconds(min(waits))} us, "
        f"median {_microseconds(statistics.median(waits))} us, p99 {_microseconds(p99(waits))} us"
    )


# --- ranks on this machine -----------------------------------------------------------------------


def _refuse_launcher() -> None:
    try:
        place = RankInfo.from_environment()
    except BarrierConfigError:
        return
    if place.global_world_size > 1:
        raise BarrierConfigError(
            f"-n starts the ranks, but this process is rank {place.global_rank} of "
            f"{place.global_world_size} already: leave out -n, or the launcher"
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


class _Rank:
    """A process started here, and what it has told so far."""

    def __init__(self, rank: int, count: int, options: Sequence[str]) -> None:
        self.rank = rank
        ours, theirs = os.pipe()
        self.pipe: IO[bytes] = os.fdopen(ours, "rb")
        self.last = _News(0)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OTHER_LAUNCHERS)
        }
        environment |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(count),
            # The same modules as in this process, whatever lies in the working directory.
            "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path),
            "PYTHONSAFEPATH": "1",
        }
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "barrier_core", "check", f"--report-to={theirs}", *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # what a plugin prints is no part of the answer
                pass_fds=[theirs],
                start_new_session=True,  # Ctrl-C is for this process, which ends them all
            )
        finally:
            os.close(theirs)

    @property
    def done(self) -> bool:
        """Whether it has told what became of it."""
        return self.last.waits is not None or bool(self.last.error)

    def listen(self) -> None:
        """Take a line of news; call it when there is something in the pipe."""
        line = self.pipe.readline()
        if line.endswith(b"\n"):
            self.last = msgspec.json.decode(line, type=_News)
        else:
            code = self.process.wait()
            how = f"exited with status {code}"
            if code < 0:
                how = f"was ended by {signal.Signals(-code).name}"
            self.last.error = f"the process (pid {self.process.pid}) {how} before it was through"

    def end(self) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def _run_ranks(options: Sequence[str], count: int, rounds: int) -> None:
    ranks: list[_Rank] = []
    try:
        for rank in range(count):
            ranks.append(_Rank(rank, count, options))
        with _progress(rounds, visible=True) as advance:
            _listen_to_all(ranks, advance)
        for each in ranks:
            if each.done:
                with suppress(subprocess.TimeoutExpired):
                    each.process.wait(_GRACE_SECS)
    finally:
        for each in ranks:
            each.end()
    if any(each.last.error for each in ranks):
        raise FailedError(_diagnosis(ranks))
    show(_table(ranks))


def _listen_to_all(ranks: Sequence[_Rank], advance: Callable[[int], None]) -> None:
    """Return when all ranks have told what became of them, or one has failed a while ago."""
    deadline = math.inf
    with selectors.DefaultSelector() as selector:
        for each in ranks:
            selector.register(each.pipe, selectors.EVENT_READ, each)
        while not all(each.done for each in ranks):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for key, _ in selector.select(None if math.isinf(left) else left):
                each = key.data
                each.listen()
                if each.done:
                    selector.unregister(each.pipe)
                if each.last.error:
                    deadline = min(deadline, time.monotonic() + _GRACE_SECS)
            advance(min(each.last.rounds for each in ranks))


def _diagnosis(ranks: Sequence[_Rank]) -> str:
    """Say what each rank says, and what ranks say alike once."""
    ranks_by_error: dict[str, list[int]] = {}
    for each in ranks:
        error = each.last.error or (
            "" if each.done else "still waited when others had failed, and was ended"
        )
        if error:
            ranks_by_error.setdefault(error, []).append(each.rank)
    return "the barrier failed\n" + "\n".join(
        f"rank{'s' * (len(who) > 1)} {format_ranks(who)}: {error}"
        for error, who in ranks_by_error.items()
    )


def _table(ranks: Sequence[_Rank]) -> Table:
    waits = [each.last.waits or [] for each in ranks]
    last = count_last(waits)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("RANK", "HOST", "MEDIAN US", "P99 US", "CAME LAST"):
        table.add_column(heading, justify="left" if heading == "HOST" else "right")
    for each, its_waits in zip(ranks, waits, strict=True):
        table.add_row(
            str(each.rank),
            plain(each.last.host),
            _microseconds(statistics.median(its_waits)),
            _microseconds(p99(its_waits)),
            f"{last[each.rank]} of {len(its_waits)}",
        )
    return table


def _be_a_rank(chosen: Chosen, rounds: int, report_to: int) -> None:
    """Be one of the ranks that ``-n`` starts."""
    host = RankInfo.from_environment().host
    passed = 0
    next_news = 0.0
    with os.fdopen(report_to, "wb") as pipe:

        def tell(number: int) -> None:
            nonlocal passed, next_news
            passed = number
            if time.monotonic() >= next_news:
                next_news = time.monotonic() + _SHOW_EVERY_SECS
                pipe.write(msgspec.json.encode(_News(number)) + b"\n")
                pipe.flush()

        try:
            news = _News(rounds, host, waits=_measure(chosen, rounds, tell))
        except BarrierError as error:
            news = _News(passed, host, error=str(error))
        pipe.write(msgspec.json.encode(news) + b"\n")


# --- numbers and their display -------------------------------------------------------------------


def p99(values: Sequence[float]) -> float:
    """Return the value that 99 of 100 do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def count_last(waits: Sequence[Sequence[float]]) -> Counter[int]:
    """Return how often each rank came last: in a round, the last one to come waits least.

    Args:
        waits: For each rank, how long it has waited in each round, by its own clock.
    """
    return Counter(
        min(range(len(waits)), key=lambda rank: in_round[rank])
        for in_round in zip(*waits, strict=True)
    )


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}"


@contextmanager
def _progress(rounds: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many rounds have passed; yield what to call with their number."""
    console = Console(stderr=True)
    if not (visible and console.is_terminal):
        yield lambda number: None
        return
    columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn())
    # Not refreshed by a thread of its own, which would get in the way of what is measured.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("rounds", total=rounds)
        next_refresh = 0.0

        def advance(number: int) -> None:
            nonlocal next_refresh
            if time.monotonic() >= next_refresh:
                next_refresh = time.monotonic() + _SHOW_EVERY_SECS
                progress.update(task, completed=number, refresh=True)

        yield advance
