"""Two commits side by side: rounds of ``tcp_store``, blocks of both in turn, in one run.

    python -m benchmarks.compare --base COMMIT [--ranks 2 4 8 16] [--sittings 5] [--blocks 12]

Each commit has rank processes and a server process of its own; while one has its block, the other's
processes sleep. The ratio of a pair of blocks that follow each other is free of what changes slowly
on a machine, so the median of these ratios says most. Where the kernel puts processes stays as it
is for as long as they live, so all are started anew a few times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.awake import cores_awake

ROOT = Path(__file__).parents[1]
_WARM_UP = 200  # rounds

_SERVER = """
import socket, sys
from torch.distributed import TCPStore
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False,
                 master_listen_fd=listener.detach())
print(port, flush=True)
sys.stdin.read()
"""

_RANK = """
import sys, time
from types import SimpleNamespace
rank, world_size, port = map(int, sys.argv[1:])
from barrier_tcp_store import TCPStoreBarrier
class TCPStore(SimpleNamespace):  # tells where the store is, without an import of torch
    pass
barrier = TCPStoreBarrier(rank, world_size, "compare", store=TCPStore(host="127.0.0.1", port=port),
                          timeout_secs=60.0, heartbeat_secs=5.0)
print("ready", flush=True)
for line in sys.stdin:
    rounds = int(line)
    for _ in range(5):
        barrier.execute_barrier(tag="save step=1200")
    started = time.perf_counter()
    for _ in range(rounds):
        barrier.execute_barrier(tag="save step=1200")
    print((time.perf_counter() - started) / rounds, flush=True)
"""


class Job:
    """The ranks and the server of one commit."""

    def __init__(self, tree: Path, world_size: int, undo: ExitStack) -> None:
        path = os.pathsep.join([str(tree), str(tree / "plugins" / "tcp_store")])
        self._environ = {**os.environ, "PYTHONPATH": path}
        self._undo = undo
        server = self._start(_SERVER)
        port = self._read(server)
        self._ranks = [
            self._start(_RANK, str(rank), str(world_size), port) for rank in range(world_size)
        ]
        for rank in self._ranks:
            assert self._read(rank) == "ready"

    def block(self, rounds: int) -> float:
        """Go through a block of rounds; return the seconds that one took the slowest rank."""
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(f"{rounds}\n")
            rank.stdin.flush()
        return max(float(self._read(rank)) for rank in self._ranks)

    def _start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=self._environ,
            cwd=self._undo.enter_context(tempfile.TemporaryDirectory()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._undo.callback(process.wait)
        self._undo.callback(process.kill)
        return process

    @staticmethod
    def _read(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a process of the comparison has ended; see its error above")
        return line


def compare(
    base: Path, world_size: int, sittings: int, blocks: int, seconds: float
) -> tuple[float, ...]:
    """Return microseconds of base and of this tree, best of blocks, and three ratios.

    The ratios are that of the best blocks, that of the medians, and the median of those of pairs.
    """
    old: list[float] = []
    new: list[float] = []
    for sitting in range(sittings):
        with ExitStack() as undo:
            trees = [(base, old), (ROOT, new)][:: 1 if sitting % 2 else -1]
            jobs = [(Job(tree, world_size, undo), secs) for tree, secs in trees]
            per_round = max(job.block(_WARM_UP) for job, _ in jobs)
            rounds = max(round(seconds / per_round), 50)
            for block in range(blocks):
                for job, secs in jobs[:: 1 if block % 2 else -1]:
                    secs.append(job.block(rounds))
    return (
        min(old) * 1e6,
        min(new) * 1e6,
        min(new) / min(old),
        statistics.median(new) / statistics.median(old),
        statistics.median([n / o for o, n in zip(old, new, strict=True)]),
    )


def main() -> None:
    """Compare, and print one line for each world size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="the commit to compare with")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--sittings", type=int, default=5, help="how often all are started anew")
    parser.add_argument("--blocks", type=int, default=12, help="of each sitting")
    parser.add_argument("--seconds", type=float, default=0.15, help="of a block, about")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cores_awake():
        base = Path(folder) / "base"
        git = ("git", "-C", str(ROOT), "worktree")
        subprocess.run([*git, "add", "--quiet", "--detach", base, arguments.base], check=True)
        try:
            print("ranks  base us  this us   best  medians   pairs")
            for world_size in arguments.ranks:
                old, new, *ratios = compare(
                    base, world_size, arguments.sittings, arguments.blocks, arguments.seconds
                )
                best, medians, pairs = ratios
                print(
                    f"{world_size:5}  {old:7.1f}  {new:7.1f}  {best:5.3f}    {medians:5.3f}   "
                    f"{pairs:5.3f}",
                    flush=True,
                )
        finally:
            subprocess.run([*git, "remove", "--force", base], check=True)


if __name__ == "__main__":
    main()
