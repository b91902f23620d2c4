"""Whether a process is gone, from outside: by its pid on one host, by a connection from another.

A rank is called dead only when a kernel has said so. Silence alone says nothing: a rank may hold
the interpreter lock for a minute, be stopped, or be cut off.
"""

from __future__ import annotations

import math
import os
import secrets
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from barrier_core.agreement.links import Link, Seen, family, plain
from barrier_core.exhaustion import exhausted
from barrier_core.options import LONGEST_WAIT_SECS
from barrier_core.this_process import after_fork, boot_id, host_name, namespace_id

_BACKLOG = 4096
"""Connections that the kernel accepts for a rank that is stuck. Each other rank has at most two
there, of which one is kept and never made again while it stands, and most ranks have none."""
_MAX_LINKS = 256
"""With so many connections, no more are taken from the backlog, whoever makes them."""
_BEST: tuple[Seen, ...] = (
    *("open", "closed", "left", "forwarded", "accepted", "no answer", "refused", "unreachable"),
)
"""What counts first, where there are several connections to one rank: what proves most."""


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
    """A rank's port for others to look after it, and its connections to the ports of others.

    The kernel answers for it while the process lives, even if stopped. Its owner greets each
    connection (see `links`), as soon as its watcher runs. It holds all sockets of this kind.

    Args:
        address: This host's address, as others reach it.
    """

    def __init__(self, address: str) -> None:
        self._server = socket.create_server((address, 0), family=family(address), backlog=_BACKLOG)
        self._server.setblocking(False)
        try:
            self._waker, self._wakes = socket.socketpair()
        except OSError:
            self._server.close()
            raise
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self.endpoint: tuple[str, int] = (address, self._server.getsockname()[1])
        """Address and port."""
        self.token = secrets.token_hex(16)
        """What the owner of the port says to whoever connects; in its member record as well."""
        self.deaths = 0
        """How many connections the other rank's kernel has closed."""
        after_fork(self.close)  # a child that lives on must not keep it open

    @classmethod
    def open(cls, address: str | None) -> LivenessPort | None:
        """Open a port at this host's address; None where it has none that others can reach.

        Raises:
            OSError: This process has run out of descriptors or memory.
        """
        try:
            return None if address is None else cls(plain(address))
        except OSError as error:
            if exhausted(error):
                raise
            return None  # silence then stays silence: nobody can tell this rank's death

    def watch(self, endpoint: tuple[str, int], token: str) -> None:
        """Connect to another rank's port: from then on, either hears of the other's death."""
        with self._lock:
            self._add(Link.to(endpoint, self.token, token))

    def ask(self, endpoint: tuple[str, int], token: str) -> None:
        """See whether another rank's port answers, unless a connection to that rank stands.

        The new one stands as well, until `forget_asked`: one that is made and closed again and
        again would fill the backlog of a rank that is stuck.
        """
        if token not in self._connected():
            with self._lock:
                self._add(Link.to(endpoint, None, token))

    def await_answers(self, timeout_secs: float) -> None:
        """Wait until every host that was asked has answered, or the time is up."""
        deadline = time.monotonic() + timeout_secs
        self._advance()
        while pending := [link for link in list(self._links) if link.is_connecting]:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            poller = select.poll()
            for link in pending:
                poller.register(*link.descriptor())
            poller.poll(left * 1000 + 1)
            self._advance()

    def forget_asked(self) -> None:
        """Close the connections that were made to ask only."""
        with self._lock:
            self._keep([link for link in self._links if link.is_mutual])

    def seen(self, token: str, within_secs: float = math.inf) -> Seen:
        """Return what the connections to a rank say of it, without waiting; see `Link.seen`."""
        self._advance()
        all_seen = {link.seen(within_secs) for link in list(self._links) if link.peer == token}
        return next((seen for seen in _BEST if seen in all_seen), "not asked")

    def watched(self) -> set[str]:
        """Return the tokens of the ranks that hear of this rank's death, as it does of theirs."""
        return self._connected(mutual=True)

    # The same as `WakeUp`, which stands in for it where there is no port.

    def call(self) -> None:
        """End the wait under way, or else the next one. Any thread may call it."""
        with suppress(OSError):  # closed, or so full that the wait ends anyway
            self._waker.send(b"w")

    def wait(self, timeout_secs: float | None) -> bool:
        """Wait for a call, and see to the connections meanwhile; False: nothing came in time.

        Only one thread may wait. A number of seconds is cut to a day.
        """
        poller = select.poll()
        if len(self._links) < _MAX_LINKS:
            poller.register(self._server, select.POLLIN)
        poller.register(self._wakes, select.POLLIN)
        for link in list(self._links):
            if not link.has_ended:
                poller.register(*link.descriptor())
        if timeout_secs is None:
            events = poller.poll()
        else:
            events = poller.poll(min(max(timeout_secs, 0.0), LONGEST_WAIT_SECS) * 1000 + 1)
        with suppress(OSError):
            while self._wakes.recv(4096):
                pass
        self._advance()
        return bool(events)

    def say_farewell(self) -> None:
        """Tell the others that this rank leaves, before `close`."""
        for link in list(self._links):
            link.say_farewell()

    def close(self) -> None:
        """Close this process's descriptors; a forked child may, as nothing is said on them."""
        for each in (self._server, self._waker, self._wakes):
            each.close()
        for link in list(self._links):
            link.close()

    def _connected(self, mutual: bool = False) -> set[str]:
        """Return the tokens of the ranks to which a connection stands, or is being made."""
        return {
            link.peer
            for link in list(self._links)
            if link.peer is not None and not link.has_ended and (link.is_mutual or not mutual)
        }

    # The list of connections changes under the lock only: one that got lost would be closed, which
    # the rank at its other end would take for this rank's death.

    def _add(self, new: Link) -> None:
        self._keep([link for link in self._links if link.peer != new.peer or not link.has_failed])
        self._links.append(new)
        self.call()  # whoever waits is to wait for this one as well

    def _keep(self, links: list[Link]) -> None:
        outdated = [link for link in self._links if link not in links]
        self._links = links
        for link in outdated:
            link.close()

    def _advance(self) -> None:
        # Nothing but a call in here; see `FailureDetector.examine`.
        with self._lock:
            self._advance_all()

    def _advance_all(self) -> None:
        with suppress(OSError):
            while len(self._links) < _MAX_LINKS:
                self._links.append(Link(self._server.accept()[0], self.token, None))
        for link in self._links:
            if not link.has_ended:
                link.advance()
                self.deaths += link.seen() == "closed"
        # What has ended without saying anything is of no use any more.
        self._keep([link for link in self._links if link.seen() != "ended"])
