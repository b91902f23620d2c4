"""A connection between two ranks that says, by its end, that one of them is gone.

Why this is safe. A rank is called dead only after all of this, on one connection:

1. *Greeted.* The other end has sent the token that stands in that rank's member record. So the
   process behind this connection is that rank's.
2. *Direct.* Each end is told the address at which the other sees it, and it is the address that it
   has. A forwarder or proxy ends one TCP connection and begins another, and a NAT rewrites
   addresses, so through them the two differ. Only packet filters can then stand between the ends.
3. *Closed in order.* The connection has ended by a FIN, in sequence. Only the kernel at the other
   end sends it, when the socket's last owner closes it or ends. A filter that rejects sends a RST
   or an ICMP message, one that drops sends nothing, and neither counts as a death. A rank that
   lives never closes a connection on which it has sent its token without a farewell.

Nobody sends anything after the greetings: a kernel that ends a process whose data was not read
sends a RST instead of a FIN. That the host still answers is found by TCP's own keep-alive, which
kernels handle among themselves, also for a process that is stopped or stuck.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Literal

Seen = Literal[
    "not asked",
    "no answer",
    "unreachable",
    "refused",
    "accepted",
    "forwarded",
    "open",
    "ended",
    "closed",
    "left",
]
"""What a connection to a rank's liveness port says.

``accepted``: somebody accepts connections there, but has not greeted. ``forwarded``: the rank has
greeted, but something between the two ends the connections. ``open``: the connection to the rank
itself stands, and its host answers. ``ended``: what was there has ended, which proves nothing.
``closed``: the rank's kernel has closed the connection to it. ``left``: the rank has said farewell.
"""

ANSWER_SECS = 1.0
"""How long a host may take to answer before it is said that it does not."""
_FAREWELL = b"farewell\n"
_LONGEST_LINE = 256
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_NO_ANSWER_SECS = 2.5
"""For how long a host has answered no probe of TCP's keep-alive when it is said so."""
_KEEP_ALIVE = (
    # Seconds without a packet until the first probe, between probes, and how many go unanswered
    # before the kernel gives the connection up: a network that is cut for a minute harms nothing.
    ("TCP_KEEPIDLE", 1),
    ("TCP_KEEPINTVL", 1),
    ("TCP_KEEPCNT", 120),
)
_LAST_ACK_AT = slice(56, 60)
"""Where in Linux's ``struct tcp_info`` stands how long ago the other host's kernel has answered, in
milliseconds."""


class Link:
    """One end of a connection; see the module's text.

    Args:
        connection: Its socket; what is said on it does not wait.
        token: What this end says of itself; None: it only asks, and may close it at any time.
        expected: The token of the rank that it has connected to; None: it was accepted.
    """

    def __init__(self, connection: socket.socket, token: str | None, expected: str | None) -> None:
        self.peer: str | None = expected
        """Token of the rank at the other end, as expected or as it has said."""
        self.is_mutual = token is not None
        self._socket = connection
        self._token = token
        self._started = time.monotonic()
        self.is_connecting = expected is not None
        self._is_greeted = False
        self._is_direct = False
        self._ending: Seen | None = None
        self._received = b""
        connection.setblocking(False)
        with suppress(OSError):  # the end of the connection then still says all it can
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE:
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if not self.is_connecting:
            self._greet()

    @classmethod
    def to(cls, endpoint: tuple[str, int], token: str | None, expected: str) -> Link:
        """Begin to connect to a rank's liveness port; never waits, never raises.

        Args:
            endpoint: Address and port.
            token: See `Link`.
            expected: The token in the rank's member record.
        """
        link = cls(socket.socket(family(endpoint[0]), socket.SOCK_STREAM), token, expected)
        try:
            error = link._socket.connect_ex(endpoint)
        except OSError as unusable:  # no address of this host's kind
            error = unusable.errno or errno.EINVAL
        if error not in (0, errno.EINPROGRESS):
            link._end(_ending(error))
        return link

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be heard on it."""
        return self._ending is not None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without a word about the rank."""
        return self._ending not in (None, "closed", "left")

    def descriptor(self) -> tuple[int, int]:
        """Return the descriptor and the events of poll(2) that it waits for."""
        return self._socket.fileno(), select.POLLOUT if self.is_connecting else select.POLLIN

    def advance(self) -> None:
        """Take what has come; never waits."""
        if self._ending is None and self.is_connecting:
            self._finish_connecting()
        while self._ending is None and not self.is_connecting:
            try:
                data = self._socket.recv(_LONGEST_LINE)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(_ending(error.errno))
                return
            if not data:
                self._end("closed" if self._is_greeted and self._is_direct else "ended")
                return
            self._take(data)

    def seen(self, within_secs: float = math.inf) -> Seen:
        """Return what it says of the rank at the other end.

        Args:
            within_secs: A host that has answered longer ago than that has not been asked since.
        """
        if self._ending is not None:
            return self._ending
        if self.is_connecting:
            late = time.monotonic() - self._started >= ANSWER_SECS
            return "no answer" if late else "not asked"
        answered = self._answered_secs_ago()
        if answered >= _NO_ANSWER_SECS:
            return "no answer"
        if answered > within_secs:
            return "not asked"
        if not self._is_greeted:
            return "accepted"
        return "open" if self._is_direct else "forwarded"

    def say_farewell(self) -> None:
        """Say that this rank leaves: the end that follows is no death."""
        if self.is_mutual:
            with suppress(OSError):
                self._socket.send(_FAREWELL)

    def close(self) -> None:
        """Close this process's descriptor; says nothing, so it may be called in a forked child."""
        self._socket.close()

    def _greet(self) -> None:
        if self._token is None:
            return
        try:
            host, port, *_ = self._socket.getpeername()
            self._socket.send(f"{self._token} {host} {port}\n".encode())
        except OSError as error:
            self._end(_ending(error.errno))

    def _finish_connecting(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        if not poller.poll(0):
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end(_ending(error))
            return
        self.is_connecting = False
        self._greet()

    def _take(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            if line + b"\n" == _FAREWELL:
                self._end("left" if self._is_greeted else "ended")
                return
            self._hear(line)
        if len(self._received) > _LONGEST_LINE:
            self._end("ended")  # no rank says so much

    def _hear(self, greeting: bytes) -> None:
        words = greeting.decode(errors="replace").split()
        if len(words) != 3 or (self.peer is not None and words[0] != self.peer):
            return
        self.peer = words[0]
        self._is_greeted = True
        host, port, *_ = self._socket.getsockname()
        self._is_direct = (_plain(words[1]), words[2]) == (_plain(host), str(port))

    def _answered_secs_ago(self) -> float:
        """Return how long ago the other host's kernel has answered; 0 where nobody knows."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_AT.stop)
        except (AttributeError, OSError):
            return 0.0
        return int.from_bytes(info[_LAST_ACK_AT], sys.byteorder) / 1000

    def _end(self, ending: Seen) -> None:
        self._ending = ending
        self.is_connecting = False
        self._socket.close()


def family(address: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _ending(error: int | None) -> Seen:
    """Say what an error of a connection means for the rank at its other end: never a death."""
    if error == errno.ECONNREFUSED:
        return "refused"
    if error in _UNREACHABLE:
        return "unreachable"
    if error == errno.ETIMEDOUT:
        return "no answer"
    if error in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
        return "ended"
    return "not asked"  # this host's own trouble, such as too many open files


def plain(address: str) -> str:
    """Write an address of IPv4 in IPv6 as what it stands for, and any other as it is."""
    return address.rpartition(":")[2] if address.lower().startswith("::ffff:") else address


def _plain(address: str) -> str:
    """Write an address in the one way that both ends share."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
