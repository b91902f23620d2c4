"""``barrier wait``: one barrier for shell scripts."""

from __future__ import annotations

from pathlib import Path

import click

from barrier_core.cli.chosen import Chosen, arrive, choosing_options, leave
from barrier_core.cli.exit_status import FailedError, WrongUseError
from barrier_core.errors import BarrierConfigError, BarrierError, BarrierUsageError
from barrier_core.options import check_name


class _NotSetUpError(click.ClickException):
    exit_code = 3


class _InterruptedError(click.ClickException):
    exit_code = 130


@click.command("wait")
@choosing_options
@click.option("--tag", default="", help="Names the round. It must be the same on all ranks.")
@click.option(
    "--timeout",
    "timeout_secs",
    type=float,
    metavar="SECONDS",
    help="How long to wait for the other ranks, once the barrier is set up; inf: without limit; as "
    "the config says if not given.",
)
def command(
    config_file: Path | None,
    barrier_type: str | None,
    arguments: tuple[str, ...],
    tag: str,
    timeout_secs: float | None,
) -> None:
    """Wait until every rank has arrived.

    Every rank runs it, started by srun, torchrun or mpirun:

    \b
        srun barrier wait --config barrier.toml --tag setup-done --timeout 300

    While it waits, it writes to stderr which ranks are missing. If rank 0 hosts the store, and a
    script calls this twice in a row, give each call a port of its own: a fast rank can arrive at
    the second barrier while others still leave the first.

    \b
    The exit status says what happened, and stderr says why:
        0    all ranks have arrived
        1    the round failed, for all ranks: the verdict is on stderr
        2    the command line, the config or the environment is wrong
        3    the barrier could not be set up
        130  it was interrupted (Ctrl-C)
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    try:
        chosen = Chosen.by(config_file, barrier_type, arguments)
        chosen.check_arguments()
        chosen.check_timeout(timeout_secs)
        check_name("tag", tag)
        barrier = chosen.make()
    except BarrierConfigError as error:
        raise WrongUseError(str(error)) from error
    except BarrierError as error:
        raise _NotSetUpError(str(error)) from error
    except KeyboardInterrupt:
        raise _InterruptedError("interrupted") from None
    try:
        try:
            arrive(barrier, timeout_secs, tag)
        finally:
            leave(barrier)
    except BarrierUsageError as error:
        raise WrongUseError(str(error)) from error
    except BarrierError as error:
        raise FailedError(str(error)) from error
    except KeyboardInterrupt:
        raise _InterruptedError("interrupted") from None
