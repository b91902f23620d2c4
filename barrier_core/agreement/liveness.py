"""Whether a process is gone, from outside: by its pid on one host, by its port on another.

A rank is called dead only when a kernel has said so. Silence alone says nothing: a rank may hold
the interpreter lock for a minute, be stopped, or be cut off.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from errno import ECONNREFUSED
from pathlib import Path
from typing import Literal

from barrier_core.this_process import after_fork, boot_id, host_name, namespace_id

Answer = Literal["accepts", "refuses", "silent"]


def machine_id() -> str:
    """Name what a pid is relative to: this boot of this machine, and the pid namespace."""
    boot, pids = boot_id(), namespace_id("pid")
    return f"{boot}/{pids}" if boot is not None and pids is not None else host_name()


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 where that is not known.

    A pid that is used again has another start time (proc(5), field 22 of ``/proc/pid/stat``).
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def is_running(pid: int, started: int) -> bool:
    """Whether a process of this machine still runs; a zombie does not."""
    fields = _stat(pid)
    if fields:
        return fields[0] not in ("Z", "X") and int(fields[19]) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self/stat").exists()


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped by a signal or a debugger."""
    fields = _stat(pid)
    return bool(fields) and fields[0] in ("T", "t")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/pid/stat`` from the state on; empty where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The command name before it is in parentheses and may itself hold spaces and parentheses.
    return stat.rpartition(")")[2].split()


class LivenessPort:
    """A port that is open while this process lives: the kernel answers for it, even if stopped."""

    def __init__(self, address: str) -> None:
        self._server = socket.create_server((address, 0), family=_family(address), backlog=64)
        self._server.setblocking(False)
        after_fork(self.close)  # a child that lives on must not keep it open
        self.endpoint: tuple[str, int] = (address, self._server.getsockname()[1])
        """Address and port."""

    @classmethod
    def open(cls, address: str | None) -> LivenessPort | None:
        """Open a port at this host's address; None where it has none that others can reach."""
        try:
            return None if address is None else cls(address)
        except OSError:
            return None  # silence then stays silence: nobody can tell this rank's death

    def drain(self) -> None:
        """Take the connections that others have made and left, so that the backlog stays open."""
        with suppress(OSError):
            while True:
                self._server.accept()[0].close()

    def close(self) -> None:
        """Close the port."""
        self._server.close()


def probe(addresses: Sequence[tuple[str, int]], timeout_secs: float) -> list[Answer]:
    """Ask liveness ports, all at once, whether they are open.

    ``addresses`` has a host address and a port for each.

    ``refuses`` means that the host is up and the process gone; ``silent`` that nothing is known.
    """
    poller = select.poll()
    pending: dict[int, tuple[int, socket.socket]] = {}
    answers: list[Answer] = ["silent"] * len(addresses)
    for index, address in enumerate(addresses):
        prober = socket.socket(_family(address[0]), socket.SOCK_STREAM)
        prober.setblocking(False)
        prober.connect_ex(address)
        poller.register(prober, select.POLLOUT)
        pending[prober.fileno()] = (index, prober)
    deadline = time.monotonic() + timeout_secs
    while pending and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poller.poll(left * 1000):
            index, prober = pending.pop(descriptor)
            poller.unregister(descriptor)
            error = prober.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error in (0, ECONNREFUSED):
                answers[index] = "accepts" if error == 0 else "refuses"
            prober.close()
    for _, prober in pending.values():
        prober.close()
    return answers


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
