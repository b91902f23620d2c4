"""Connecting to a server, and waiting for it: in slices, so that a wait can be ended from outside.

Why slices: only ``poll`` can wait for an answer and for another thread at once, and a connection
that is not there yet has nothing to wake. Nothing is lost by them: an answer ends a slice.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable

from barrier_core.plugin_api import StoreLostError, StoreNotTriedError, exhausted

_RETRY_SECS = 0.1
_SLICE_SECS = 0.5
"""Rather long: where thousands wait for a slow store, each wake-up makes it slower."""

StillWaiting = Callable[[str], object]
"""Is told, after each slice of a wait, why nothing has come of it yet, or the empty string. What it
raises ends the wait."""


def go_on(why: str) -> None:
    """Let every wait go on."""


def connect(
    host: str, port: int, patience_secs: float, still_waiting: StillWaiting
) -> socket.socket:
    """Connect, trying again for as long as patience lasts: the host may not be up yet.

    Raises:
        StoreLostError: Nobody has answered.
        StoreNotTriedError: This process has run out of what it takes.
    """
    deadline = time.monotonic() + patience_secs
    while True:
        try:
            return _try_to_connect(host, port, deadline, still_waiting)
        except StoreLostError:
            raise
        except OSError as error:
            if (why := exhausted(error)) is not None:
                raise StoreNotTriedError(why) from None
            if time.monotonic() + _RETRY_SECS >= deadline:
                raise StoreLostError(f"nobody answers at {host}:{port} ({error})") from None
            still_waiting(error.strerror or str(error))
            time.sleep(_RETRY_SECS)


def _try_to_connect(
    host: str, port: int, deadline: float, still_waiting: StillWaiting
) -> socket.socket:
    """Connect to the first of a host's addresses that answers."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for left, (family, kind, protocol, _, address) in zip(
        range(len(addresses), 0, -1), addresses, strict=True
    ):
        now = time.monotonic()
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            _finish(connection, address, now + max(deadline - now, 0.01) / left, still_waiting)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as error:
            connection.close()
            if left > 1 and isinstance(error, OSError) and not isinstance(error, StoreLostError):
                continue
            raise
        return connection
    raise OSError(errno.EADDRNOTAVAIL, "the host has no address")


def _finish(
    connection: socket.socket, address: object, deadline: float, still_waiting: StillWaiting
) -> None:
    error = connection.connect_ex(address)  # type: ignore[arg-type]  # of its own family
    if error == errno.EINPROGRESS:
        poller = select.poll()
        poller.register(connection, select.POLLOUT)
        if not is_ready(poller, deadline, still_waiting):
            raise TimeoutError("timed out")
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def is_ready(poller: select.poll, deadline: float, still_waiting: StillWaiting) -> bool:
    """Wait until a poll reports something; False at the deadline, in monotonic seconds."""
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        if poller.poll(min(left, _SLICE_SECS) * 1000):
            return True
        if time.monotonic() >= deadline:
            return False
        still_waiting("")
