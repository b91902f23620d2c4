"""What a contender must be, and the store that several of them need."""

from __future__ import annotations

import abc
import importlib.util
import socket
import time
from typing import Any, ClassVar, NamedTuple

from barrier_core.testing.rank_processes import state

HOST = "127.0.0.1"
TIMEOUT_SECS = 60
WARM_UP_ROUNDS = 5


class Cost(NamedTuple):
    """What a round costs a rank, in seconds."""

    wall: float
    cpu: float
    """Of all its threads, in the kernel too."""


class Contender(abc.ABC):
    """One kind of barrier, made on each rank: joins when made, then runs blocks of rounds.

    Args:
        rank: This process's rank.
        world_size: Number of ranks.
        port: Where the contender's server listens, on the loopback interface.
    """

    title: ClassVar[str]
    """What tables and plots call it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules without which it is skipped."""
    has_network: ClassVar[bool] = True
    """Whether it would also work between hosts, and goes through sockets here."""

    @abc.abstractmethod
    def __init__(self, rank: int, world_size: int, port: int) -> None:
        """Join."""

    @classmethod
    def obstacle(cls) -> str | None:
        """Say why it cannot be measured here; None if it can."""
        missing = [name for name in cls.needs if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} not installed" if missing else None

    @classmethod
    def serve(cls, world_size: int) -> int:
        """Start the server, in a process of its own; return its port."""
        return serve_tcp_store(cls.__name__)

    @abc.abstractmethod
    def wait(self) -> None:
        """Go through one round."""

    def run(self, rounds: int) -> Cost:
        """Go through a block of rounds; return what a round has cost this rank."""
        wait = self.wait
        for _ in range(WARM_UP_ROUNDS):
            wait()
        started, cpu_before = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            wait()
        cpu_after, ended = time.process_time(), time.perf_counter()
        return Cost((ended - started) / rounds, (cpu_after - cpu_before) / rounds)

    def leave(self) -> None:  # noqa: B027 - most have nothing to release
        """Release what it holds; all ranks do so together."""


def serve_tcp_store(name: str) -> int:
    """Start a TCPStore in this process, in the place of the last one of this name.

    It listens at an IPv4 socket of the loopback interface. Through the socket that torch would make
    itself, its server looks up the names of its clients, and one lost DNS packet stops it for 5 s.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    listener = socket.create_server((HOST, 0))
    port: int = listener.getsockname()[1]
    state[name] = TCPStore(
        HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    return port


def connect_tcp_store(port: int) -> Any:
    """Return a client of torch's own."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    return TCPStore(HOST, port, is_master=False, wait_for_workers=False)
