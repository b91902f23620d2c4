"""TCP ports of this test process's own."""

from __future__ import annotations

import functools
import itertools
import socket


class Ports:
    """A block of ports, outside the range from which the system gives ports to clients.

    A port that is only found to be free may be taken before it is used, by another process that
    runs tests on the same machine. So each process owns a whole block, as long as it listens at the
    block's first port.
    """

    _SIZE = 100

    def __init__(self) -> None:
        for first in range(20_000, 29_000, self._SIZE):
            try:
                self._owner = socket.create_server(("127.0.0.1", first), reuse_port=False)
            except OSError:
                continue
            self._ports = itertools.cycle(range(first + 1, first + self._SIZE))
            return
        raise AssertionError("no block of ports is free")

    def new(self) -> int:
        """Return a port at which nobody listens.

        Raises:
            AssertionError: All ports of the block are in use.
        """
        for port in itertools.islice(self._ports, self._SIZE):
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise AssertionError("all ports of the block are in use")


@functools.cache
def _ports() -> Ports:
    return Ports()


def free_port() -> int:
    """Return a port of this host that no other process uses or is given meanwhile.

    Raises:
        AssertionError: There is none.
    """
    return _ports().new()
