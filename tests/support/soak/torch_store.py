"""The store of the soak test: torch's server in a process, and one that can take its place."""

from __future__ import annotations

import re
import socket
import threading
from typing import Any

from barrier_core.agreement.keys import ROUND_DIGITS
from barrier_core.testing.rank_processes import RankProcesses, state
from tests.support.ports import free_port

_HOST = "127.0.0.1"


class TorchStore:
    """A TCPStore at one port, which can be stopped, killed, started anew and made to forget."""

    def __init__(self) -> None:
        self._processes = RankProcesses(2, timeout_secs=60)
        self._serving = 0
        self._one_client = threading.Lock()  # for the faults of two jobs at once
        self.port = free_port()
        self._starts = self._processes.start(0, _serve, self.port)

    def close(self) -> None:
        """End it."""
        self._processes.close()

    def await_start(self) -> None:
        """Return once the server can be reached; the other process is then made ready."""
        self._starts.result()
        self._processes.start(1, _get_ready)

    def stop(self) -> None:
        """Freeze the server."""
        self._processes.stop(self._serving)

    def cont(self) -> None:
        """Let it go on."""
        self._processes.cont(self._serving)

    def start_anew(self) -> None:
        """Kill the server; another one, which is empty, comes to its port."""
        killed, self._serving = self._serving, 1 - self._serving
        self._processes.kill(killed)
        self._processes.run(self._serving, _serve, self.port)
        self._processes.replace(killed)
        self._processes.start(killed, _get_ready)

    def forget(self, beginning: str) -> None:
        """Have another client remove all keys with this beginning."""
        self._remove(re.escape(beginning), newest_only=False)

    def forget_newest_round(self, beginning: str) -> None:
        """Have another client remove the keys of the round that ranks are in, or have just left.

        Args:
            beginning: Of the keys of all rounds, up to the number.
        """
        log = rf"{re.escape(beginning)}\d{{{ROUND_DIGITS}}}"
        self._remove(log, newest_only=True)

    def _remove(self, beginning: str, newest_only: bool) -> None:
        with self._one_client:
            self._processes.run(1 - self._serving, _remove_keys, self.port, beginning, newest_only)

    def count_keys(self) -> int:
        """Return the number of keys."""
        return self._processes.run(self._serving, _count_keys)

    def resident_mb(self) -> tuple[int, float]:
        """Return the server's pid, and how much memory it has, in MiB."""
        from tests.support.soak.rank_side import resident_mb

        return self._processes.pid(self._serving), self._processes.run(self._serving, resident_mb)


# What runs in the two processes.


def _get_ready(_number: int) -> None:
    import torch.distributed  # noqa: F401  # it takes seconds


def _serve(_number: int, port: int) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    # On an address that is in every hosts file: torch's server looks up its clients' names, and a
    # slow name server would stop it for seconds.
    listener = socket.create_server((_HOST, port))
    state["server"] = TCPStore(
        _HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def _count_keys(_number: int) -> int:
    return int(state["server"].num_keys())


def _remove_keys(_number: int, port: int, beginning: str, newest_only: bool) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    client: Any = TCPStore(_HOST, port, is_master=False, wait_for_workers=False)
    found = [(match[0], key) for key in client.list_keys() if (match := re.match(beginning, key))]
    newest = max(found, default=("", ""))[0]
    for beginning_of_key, key in found:
        if not newest_only or beginning_of_key == newest:
            client.delete_key(key)
