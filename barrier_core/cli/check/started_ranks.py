"""The ranks that ``barrier check -n`` starts on this machine, and what they report to it."""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

import msgspec

from barrier_core.cli.check.figures import SHOW_EVERY_SECS, Figures, progress, show_figures
from barrier_core.cli.exit_status import FailedError
from barrier_core.errors import BarrierError
from barrier_core.launcher import JOB_ID_VARIABLE, RankInfo
from barrier_core.verdict import format_ranks

_STDERR = 2
# After one rank has failed, the time that the others have to report why they fail.
_GRACE_SECS = 10.0

# Variables of other launchers and of an outer torchrun, which the ranks started here must not use.
_OTHER_LAUNCHERS = ("MASTER_", "OMPI_", "PMI_", "MPI_", "SLURM_", "TORCHELASTIC_")


class _Message(msgspec.Struct):
    """What a rank reports: how many rounds have passed and, in its last message, the outcome."""

    rounds: int
    figures: Figures | None = None
    """Set where all rounds have passed."""
    error: str = ""


class _Rank:
    """A process started here, and its last message."""

    def __init__(self, rank: int, count: int, job_id: str, options: Sequence[str]) -> None:
        self.rank = rank
        ours, theirs = os.pipe()
        self.pipe: IO[bytes] = os.fdopen(ours, "rb")
        self.last = _Message(0)
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
            JOB_ID_VARIABLE: job_id,
            # The same modules as in this process; none from the working directory.
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
        """Whether it has reported an outcome."""
        return self.last.figures is not None or bool(self.last.error)

    def listen(self) -> None:
        """Read a message; call it when the pipe can be read."""
        line = self.pipe.readline()
        if line.endswith(b"\n"):
            self.last = msgspec.json.decode(line, type=_Message)
        else:
            code = self.process.wait()
            how = f"exited with status {code}"
            if code < 0:
                how = f"was ended by {signal.Signals(-code).name}"
            self.last.error = f"the process (pid {self.process.pid}) {how} before its last round"

    def end(self) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def run_ranks(options: Sequence[str], count: int, rounds: int) -> None:
    """Start ranks that each run ``barrier check`` with these options, and show what they report.

    Raises:
        FailedError: The barrier has failed on one of them.
    """
    job_id = f"check-{uuid.uuid4()}"  # others may run on this host, from the same start
    ranks: list[_Rank] = []
    try:
        for rank in range(count):
            ranks.append(_Rank(rank, count, job_id, options))
        with progress(rounds, visible=True) as advance:
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
    show_figures([each.last.figures for each in ranks if each.last.figures])


def _listen_to_all(ranks: Sequence[_Rank], advance: Callable[[int], None]) -> None:
    """Return when all ranks have an outcome, or `_GRACE_SECS` after the first has failed."""
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
    """Return the error of each rank; ranks with the same error share a line."""
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


def be_a_rank(measure: Callable[[Callable[[int], None]], list[float]], report_to: int) -> None:
    """Be one of the ranks that `run_ranks` starts.

    Args:
        measure: Goes through the barrier; calls its argument with the number of rounds so far.
        report_to: Descriptor of the pipe to the process that has started this one.
    """
    host = RankInfo.from_environment().host
    passed = 0
    next_message = 0.0
    with os.fdopen(report_to, "wb") as pipe:

        def report(number: int) -> None:
            nonlocal passed, next_message
            passed = number
            if time.monotonic() >= next_message:
                next_message = time.monotonic() + SHOW_EVERY_SECS
                pipe.write(msgspec.json.encode(_Message(number)) + b"\n")
                pipe.flush()

        try:
            figures = Figures.of(host, measure(report))
            message = _Message(passed, figures)
        except BarrierError as error:
            message = _Message(passed, error=str(error))
        pipe.write(msgspec.json.encode(message) + b"\n")
