"""The main job, three times: over tcp_store, over dist_barrier, and with a rank that stops.

Then who was late in all three, as every rank has left a trace. Exits with 0 if all three went as
they should.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

HERE = Path(__file__).parent
RANKS = 4
STOPPED_RANK = 3
ALL_STEPS = ["step-10", "step-20", "step-30"]
TIMEOUT_SECS = 5.0  # as in barrier.toml
BUSY_SECS = 5.0  # by which a busy machine may make a rank speak later than it raised
LONGEST_JOB_SECS = 120.0

UP = re.compile(r"rank (\d+) is up \(pid (\d+)\)")
RAISED = re.compile(r"rank (\d+) raised (\w+) after ([\d.]+) s: (.*)")
ERROR = re.compile(r"(\[rank\d+\]: )?[\w.]*(Error|Exception|Interrupt)\b")
PAGE = f"barrier-demo-report-{os.getuid()}.html"  # a folder that others may use, too
READ_BACK = f"read back bit for bit by {RANKS} ranks"

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Raised:
    """What one rank said when it gave up."""

    error: str
    secs: float
    message: str


@dataclass
class Job:
    """One run of train.py under torchrun, and what came of it."""

    directory: Path
    exit_status: int = 0
    pids: dict[int, int] = field(default_factory=dict)
    """By rank."""
    raised: dict[int, Raised] = field(default_factory=dict)
    """By rank."""
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """Where torchrun's own words and the ranks' stderr go."""
        return self.directory / "torchrun.log"

    def on_disk(self, pattern: str) -> list[str]:
        """Return the names of the directories that are there, sorted."""
        return sorted(path.name for path in self.directory.glob(pattern))

    def expect(self, condition: bool, what: str) -> None:
        """Raise unless a condition holds, with what the job has said of it."""
        if not condition:
            log = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
            errors = [line for line in log if ERROR.match(line)]
            words = [what, *self.lines[-5:], *errors[:5], f"All of it is in {self.log}"]
            raise UnexpectedError("\n  ".join(words))

    @property
    def traces(self) -> Path:
        """Where the ranks leave their traces, next to those of the other parts."""
        return self.directory.parent / "traces"

    def run(self, barrier_type: str | None = None, stop_rank: int | None = None) -> None:
        """Run to the end, showing what the ranks say."""
        self.directory.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={RANKS}", str(HERE / "train.py"), str(self.directory)]
        command += [] if stop_rank is None else [f"--stop-rank={stop_rank}"]
        # What barrier.toml says is to count, whatever this shell has set.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BARRIER_")}
        environment |= {"OMP_NUM_THREADS": "1", "BARRIER_TRACE_DIR": str(self.traces)}
        environment |= {"BARRIER_TYPE": barrier_type} if barrier_type else {}
        with (
            open(self.log, "wb") as log,
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            ) as torchrun,
        ):
            overdue = threading.Timer(LONGEST_JOB_SECS, self._end, [torchrun])
            overdue.start()
            try:
                self._follow(torchrun, stop_rank)
                self.exit_status = torchrun.wait()
            finally:
                overdue.cancel()
                self._end(torchrun)

    def _follow(self, torchrun: subprocess.Popen[str], stop_rank: int | None) -> None:
        assert torchrun.stdout is not None
        starting = f"starting {RANKS} ranks"
        if not console.is_terminal:
            console.print(f"  {starting} ...")
        started = time.monotonic()
        with console.status(starting) as display:
            for line in map(str.rstrip, torchrun.stdout):
                self.lines.append(line)
                if up := UP.fullmatch(line):
                    self.pids[int(up[1])] = int(up[2])
                    display.update(f"{starting}: {len(self.pids)} up")
                    if len(self.pids) == RANKS:
                        secs = time.monotonic() - started
                        console.print(f"  {RANKS} ranks up after {secs:.1f} s")
                        display.update("training")
                elif raised := RAISED.fullmatch(line):
                    self.raised[int(raised[1])] = Raised(raised[2], float(raised[3]), raised[4])
                    if stop_rank is not None and len(self.raised) == RANKS - 1:
                        # torchrun would do it, but gives a process 30 s to follow SIGTERM.
                        os.kill(self.pids[stop_rank], signal.SIGKILL)
                else:
                    console.print(f"  {escape(line)}")
                    if "stops (SIGSTOP)" in line:
                        display.update(f"the others wait, {TIMEOUT_SECS:g} s at most")

    def _end(self, torchrun: subprocess.Popen[str]) -> None:
        """Leave nothing running, whatever state it is in."""
        if torchrun.poll() is None:
            for pid in self.pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            torchrun.terminate()


class UnexpectedError(Exception):
    """A job did not go as it should."""


def check_complete(job: Job) -> None:
    """Raise unless the job has committed everything."""
    job.expect(job.exit_status == 0, f"torchrun exited with {job.exit_status}, not 0")
    job.expect(job.on_disk("step-*") == ALL_STEPS, f"committed: {job.on_disk('step-*')}")
    job.expect(not job.on_disk("tmp-*"), f"left behind: {job.on_disk('tmp-*')}")
    read_back = sum(READ_BACK in line for line in job.lines)
    job.expect(read_back == len(ALL_STEPS), f"{read_back} checkpoints were read back")
    console.print(f"  exit status 0, {len(ALL_STEPS)} checkpoints committed")


def check_stopped(job: Job) -> None:
    """Raise unless the other ranks have raised in time, and committed nothing by halves."""
    others = [rank for rank in range(RANKS) if rank != STOPPED_RANK]
    job.expect(sorted(job.raised) == others, f"of ranks {others}, {sorted(job.raised)} raised")
    slowest = max(raised.secs for raised in job.raised.values())
    job.expect(slowest < TIMEOUT_SECS + BUSY_SECS, f"a rank raised only after {slowest} s")
    messages = {raised.message for raised in job.raised.values()}
    job.expect(len(messages) == 1, f"the ranks disagree: {messages}")
    (message,) = messages
    job.expect(f"rank {STOPPED_RANK} " in message, f"nobody says who is missing: {message}")
    job.expect(job.exit_status != 0, "torchrun exited with 0")
    job.expect(job.on_disk("step-*") == ALL_STEPS[:1], f"committed: {job.on_disk('step-*')}")

    console.print(
        f"  ranks {', '.join(map(str, others))} raise {job.raised[0].error} after {slowest:.1f} s, "
        "all with this message:"
    )
    console.print(f"    [bold]{escape(message)}[/bold]")
    console.print(f"  exit status {job.exit_status}; on disk:")
    for name in job.on_disk("step-*") + job.on_disk("tmp-*"):
        shards = len(list((job.directory / name).iterdir()))
        verdict = "committed" if name.startswith("step-") else "never committed"
        console.print(f"    {name}: {shards} of {RANKS} shards, {verdict}")


def run_parts(directory: Path) -> None:
    """Run the three parts, each in a directory of its own."""
    console.print("\n[bold]1. barrier_type tcp_store[/bold], as in the file")
    job = Job(directory / "tcp_store")
    job.run()
    check_complete(job)

    console.print("\n[bold]2. barrier_type dist_barrier[/bold], the same file otherwise")
    job = Job(directory / "dist_barrier")
    job.run(barrier_type="dist_barrier")
    check_complete(job)

    console.print(f"\n[bold]3. A rank stops:[/bold] tcp_store, timeout_secs = {TIMEOUT_SECS:g}")
    job = Job(directory / "stopped")
    job.run(stop_rank=STOPPED_RANK)
    check_stopped(job)

    console.print("\n[bold]Who was late?[/bold] What `barrier report` says of all three parts:")
    report(job)


def report(job: Job) -> None:
    """Show the report of everything so far, and leave its page where it can be opened."""
    page = Path(tempfile.gettempdir()) / PAGE
    command = [sys.executable, "-m", "barrier_core", "report", str(job.traces)]
    told = subprocess.run(
        [*command, "--top=2", f"--html={page}"], capture_output=True, text=True, check=False
    )
    job.expect(told.returncode == 0, f"barrier report exited with {told.returncode}: {told.stderr}")
    for line in told.stdout.splitlines():
        console.print(f"  {escape(line)}" if line else "")


def main() -> int:
    """Run the demo; return its exit status."""
    started = time.monotonic()
    console.print(
        f"{RANKS} ranks train a model and save it {len(ALL_STEPS)} times, each rank its own shard."
    )
    console.print("Rank 0 commits a checkpoint by one rename, after the barrier of barrier.toml.")
    directory = Path(tempfile.mkdtemp(prefix="sharded_checkpoint-"))
    try:
        run_parts(directory)
    except UnexpectedError as error:
        console.print(f"\n[bold red]This should not have happened:[/bold red] {escape(str(error))}")
        return 1
    except BaseException:
        shutil.rmtree(directory)
        raise
    shutil.rmtree(directory)
    console.print(f"\nAll three parts went as they should, in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
