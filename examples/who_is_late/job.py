"""One rank of a job that trains and sometimes uploads its shard; or the storage that takes it."""

from __future__ import annotations

import argparse
import random
import socket
import socketserver
import sys
import time

from barrier_core import BarrierFailedError, RankInfo, create_barrier

STORAGE_PORT = 29900
BARRIER_PORT = 29901
TRAIN_SECS = 0.03  # of a step
SLOW_FACTOR = 1.5
UPLOAD_EVERY = 5  # steps
_CHUNK = b"x" * 1000
_CHUNKS = 4  # each waits for the one before, so an upload takes this many round trips


class Storage(socketserver.BaseRequestHandler):
    """Takes chunks and acknowledges each."""

    def handle(self) -> None:
        with self.request.makefile("rb") as stream:
            while stream.read(len(_CHUNK)):
                self.request.sendall(b"k")


def store(address: str) -> None:
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((address, STORAGE_PORT), Storage) as server:
        print("storage is up", flush=True)
        server.serve_forever()


def train(address: str, steps: int, step_secs: float, slow_rank: int) -> None:
    rank = RankInfo.from_environment().global_rank
    random.seed(rank)
    factor = SLOW_FACTOR if rank == slow_rank else 1.0
    with (
        create_barrier(
            "tcp_store", master_address=address, tcpstore_port=BARRIER_PORT, heartbeat_secs=1.0
        ) as barrier,
        socket.create_connection((address, STORAGE_PORT)) as storage,
    ):
        for step in range(1, steps + 1):
            time.sleep(step_secs * factor * random.uniform(0.9, 1.1))  # a GPU computes
            barrier.execute_barrier(tag=f"train step={step}")
            if step % UPLOAD_EVERY == 0:
                for chunk in range(_CHUNKS):
                    storage.sendall(_CHUNK)
                    storage.recv(1)
                    barrier.report_progress(f"chunk {chunk + 1}/{_CHUNKS}")
                barrier.execute_barrier(tag=f"save step={step}")
            if rank == 0:
                print(step, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["rank", "storage"])
    parser.add_argument("address", help="of the host with the storage, where rank 0 runs")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--step-secs", type=float, default=TRAIN_SECS)
    parser.add_argument("--slow-rank", type=int, default=-1)
    args = parser.parse_args()
    if args.role == "storage":
        store(args.address)
        return 0
    try:
        train(args.address, args.steps, args.step_secs, args.slow_rank)
    except BarrierFailedError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
