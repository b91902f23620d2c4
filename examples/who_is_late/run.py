"""Eight ranks on four hosts, of which one rank is slow, one host is slow and one rank dies.

The hosts are network namespaces of this machine: it takes Linux and root.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from examples.who_is_late.job import TRAIN_SECS
from tests.support.network import Network

JOB = Path(__file__).with_name("job.py")
HOSTS = ["gpu-1", "gpu-2", "gpu-3", "gpu-4"]
RANKS_PER_HOST = 2
SLOW_RANK = 2  # on gpu-2
SLOW_HOST = "gpu-3"
DELAY_SECS = 0.01  # of a packet from or to the slow host
DEAD_RANK = 7  # on gpu-4
PICTURE_SIZE = "1280,1175"
_END_SECS = 60.0

console = Console(highlight=False, soft_wrap=True)


class Job:
    """The job's processes.

    Args:
        network: The hosts.
        traces: Folder for the trace files.
        steps: How many steps each rank does.
        step_secs: How long a step takes a rank that is not slow.
    """

    def __init__(self, network: Network, traces: Path, steps: int, step_secs: float) -> None:
        self._network = network
        self._traces = traces
        self._steps = steps
        self._step_secs = step_secs
        self._address = network.addresses[HOSTS[0]]
        self.ranks: list[subprocess.Popen[str]] = []

    def run(self, stack: ExitStack) -> dict[int, str]:
        """Run to the end, with a rank killed on the way; return what each rank said last."""
        storage = self._start(stack, HOSTS[0], "storage")
        assert storage.stdout is not None
        storage.stdout.readline()  # it is up
        world_size = len(HOSTS) * RANKS_PER_HOST
        for rank in range(world_size):
            environ = {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
            host = HOSTS[rank // RANKS_PER_HOST]
            words = (
                f"--steps={self._steps}",
                f"--step-secs={self._step_secs}",
                f"--slow-rank={SLOW_RANK}",
            )
            self.ranks.append(self._start(stack, host, "rank", *words, **environ))
        self._kill_on_the_way()
        return {rank: self._last_words(rank) for rank in range(world_size) if rank != DEAD_RANK}

    def _start(
        self, stack: ExitStack, host: str, role: str, *words: str, **environ: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._network.command(host, sys.executable, str(JOB), role, self._address, *words),
            env={**os.environ, "BARRIER_TRACE_DIR": str(self._traces), **environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, process)
        return process

    def _kill_on_the_way(self) -> None:
        """Follow rank 0, and kill a rank after nine tenths of the steps."""
        output = self.ranks[0].stdout
        assert output is not None
        with console.status("training") as display:
            for line in output:
                display.update(f"training: step {line.strip()} of {self._steps}")
                if line.strip() == str(self._steps * 9 // 10):
                    self.ranks[DEAD_RANK].send_signal(signal.SIGKILL)
                    return

    def _last_words(self, rank: int) -> str:
        output, _ = self.ranks[rank].communicate(timeout=_END_SECS)
        return output.strip().rpartition("\n")[2]


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--step-secs", type=float, default=TRAIN_SECS)
    parser.add_argument("--traces", type=Path, help="where the trace files go")
    parser.add_argument("--picture", type=Path, help="PNG file for the upper part of the page")
    args = parser.parse_args()
    if os.geteuid() != 0:
        console.print("The hosts are network namespaces, which need root: run it with sudo.")
        return 2
    traces: Path = args.traces or Path(tempfile.mkdtemp(prefix="who_is_late-"))
    with ExitStack() as stack:
        network = Network(HOSTS)
        stack.callback(network.remove)
        network.lay()
        network.delay_secs[SLOW_HOST] = DELAY_SECS
        said = Job(network, traces, args.steps, args.step_secs).run(stack)
    console.print(f"ranks {', '.join(map(str, said))} raised, all with this message:")
    for message in set(said.values()):
        console.print(f"  [bold]{escape(message)}[/bold]")
    report = [sys.executable, "-m", "barrier_core", "report", str(traces)]
    status = subprocess.run(report, check=False).returncode
    if args.picture is not None:
        take_picture(traces / "report.html", args.picture)
    return status


def take_picture(page: Path, picture: Path) -> None:
    """Have Chromium draw the page's headline and timeline."""
    browser = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars"]
    what = [
        f"--window-size={PICTURE_SIZE}",
        f"--screenshot={picture.absolute()}",
        page.absolute().as_uri(),
    ]
    subprocess.run([*browser, *what], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
