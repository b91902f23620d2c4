"""Where the store is, and starting it on rank 0."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import stat
import threading
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

from barrier_core.plugin_api import (
    BarrierConfigError,
    BarrierSetupError,
    Owner,
    after_fork,
    check_whole,
    describe_exception,
    descriptor_limit,
    exhausted,
    shown,
)

logger = logging.getLogger("barrier_core")

_DEEPEST = 100
"""PrefixStores around each other; one that is around itself would have no end."""
_CONNECTIONS = 2
"""That each rank has to the store: its caller's and its watcher's."""
_OF_SERVER = 16
"""Open files of the server and of rank 0's own connections."""
_DESCRIPTORS = "/proc/self/fd", "/dev/fd"
"""Where the system lists this process's open descriptors, if it does."""


class Endpoint(NamedTuple):
    """Where a TCPStore listens, and where in it this barrier's keys go."""

    host: str
    port: int
    namespace: str = ""

    def __str__(self) -> str:
        # With the namespace: in two of them, one process may have barriers with the same prefix.
        inside = f" under {self.namespace!r}" if self.namespace else ""
        return f"TCP store at {self.host}:{self.port}{inside}"


def agent_store(environ: Mapping[str, str] | None = None) -> Endpoint | None:
    """Return the store of torchrun's agent, which outlives every rank; None without torchrun.

    torchrun says so with ``TORCHELASTIC_USE_AGENT_STORE=True``; ``MASTER_ADDR`` and ``MASTER_PORT``
    are then the agent's store (``torch/distributed/rendezvous.py``).
    """
    environ = os.environ if environ is None else environ
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    except (KeyError, TypeError, ValueError):
        raise BarrierConfigError(
            "TORCHELASTIC_USE_AGENT_STORE=True in the environment says that torchrun's store can "
            "be used, but MASTER_ADDR and MASTER_PORT do not say where it is; start the job with "
            "torchrun, or give master_address and tcpstore_port"
        ) from None
    check_address("MASTER_ADDR", host)
    check_port("MASTER_PORT", port)
    return Endpoint(host, port)


def check_address(what: str, host: str) -> None:
    """Raise unless a name or address of a host can be looked up.

    Raises:
        BarrierConfigError: It cannot.
    """
    try:
        # As Python does before it asks the system.
        usable = isinstance(host, str) and 0 < len(host) < 256 and "\0" not in host
        usable = usable and bool(host.encode("idna"))
    except UnicodeError:  # half a surrogate, an empty or too long label
        usable = False
    if not usable:
        raise BarrierConfigError(
            f"{what}={shown(host)} cannot be the name or address of a host; give that of rank 0's"
        )


def check_port(what: str, port: int) -> None:
    """Raise unless a store can be at a port.

    Raises:
        BarrierConfigError: It cannot.
    """
    if not 1 <= check_whole(what, port) <= 65535:
        raise BarrierConfigError(
            f"{what}={shown(port)} must be between 1 and 65535, the same on all ranks"
        )


def check_room(world_size: int) -> None:
    """Raise where this process may not have the open files that it needs to host a store.

    Raises:
        BarrierSetupError: It may not.
    """
    needed = _count_open() + _OF_SERVER + _CONNECTIONS * world_size
    if needed > descriptor_limit():
        raise BarrierSetupError(
            f"rank 0 hosts the store for {world_size} ranks and needs {needed} open files for it, "
            f"but this process may have {descriptor_limit()}: raise the limit (`ulimit -n "
            f"{needed}`, RLIMIT_NOFILE) where rank 0 is started"
        )


def _count_open() -> int:
    for folder in _DESCRIPTORS:
        with suppress(OSError):
            return len(os.listdir(folder))
    return 0


def endpoint_of(store: Any) -> Endpoint:
    """Return where a store object's server listens.

    Raises:
        BarrierConfigError: It is no TCPStore, nor a PrefixStore around one.
    """
    inner, depth = store, 0
    try:
        while hasattr(inner, "underlying_store") and depth < _DEEPEST:  # a PrefixStore
            inner, depth = inner.underlying_store, depth + 1
        if type(inner).__name__ != "TCPStore":
            raise BarrierConfigError(
                f"store={shown(store)} cannot be used: the tcp_store barrier needs a torch "
                f"TCPStore, or a PrefixStore around one, but this is a {type(inner).__name__}"
            )
        namespace = ""
        if depth:
            # A PrefixStore does not tell its prefix. Whoever shares it agrees, through it, on a
            # namespace of their own instead.
            agreed = store.compare_set("barrier/namespace", "", uuid.uuid4().hex)
            namespace = f"barrier/{agreed.decode()}/"
        return Endpoint(inner.host, inner.port, namespace)
    except (
        AttributeError,
        RuntimeError,
        UnicodeError,
    ) as error:  # all of torch's are RuntimeErrors
        raise BarrierSetupError(
            f"store={shown(store)} cannot be used: {describe_exception(error)}; check that its "
            "server runs, and that it is torch's own"
        ) from error


class HostedStore:
    """One barrier's share in the server that this process hosts at an endpoint.

    All barriers of a process that are hosted at one endpoint share a server, whatever their prefix.
    It starts with the first of them and ends with the last. The first decides which of torch's
    servers it is.

    Args:
        endpoint: Where to listen.
        use_libuv: Which of torch's two servers to start.

    Raises:
        BarrierSetupError: The port is in use, the address is not one of this host, or there is no
            torch.
    """

    _servers: ClassVar[dict[Endpoint, _Server]] = {}
    _users: ClassVar[Counter[Endpoint]] = Counter()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, endpoint: Endpoint, use_libuv: bool) -> None:
        self._endpoint = endpoint
        self._owner = Owner()
        self._is_released = False
        with self._lock:
            if not self._users[endpoint]:
                server = self._servers[endpoint] = _Server(endpoint)
                try:
                    server.start(use_libuv)
                except BaseException:
                    del self._servers[endpoint]
                    raise
            self._users[endpoint] += 1

    def release(self) -> None:
        """Have the server end, unless other barriers use it: the port is free on return."""
        if not self._owner.is_this_process():
            return
        with self._lock:
            if self._is_released:
                return
            self._is_released = True
            self._users[self._endpoint] -= 1
            if not self._users[self._endpoint]:
                del self._users[self._endpoint], self._servers[self._endpoint]

    @classmethod
    def forget_all(cls) -> None:
        """Start afresh in a forked child, which keeps nothing of its parent's servers open."""
        cls._lock = threading.Lock()
        for server in cls._servers.values():
            server.end_in_child()
        cls._servers.clear()
        cls._users.clear()


after_fork(HostedStore.forget_all)


class _Server:
    """A TCPStore of this process, listening on the interface of ``endpoint.host`` only.

    The port is taken at once; `start` has torch answer there. It ends with this object.

    Args:
        endpoint: Where to listen.

    Raises:
        BarrierSetupError: The port is in use, or the address is not one of this host.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._listener: socket.socket | None = _listen(endpoint)
        self._address: tuple[str, int] = self._listener.getsockname()[:2]
        self.store: Any = None
        """torch's object, once started."""

    def start(self, use_libuv: bool) -> None:
        """Start it.

        Raises:
            BarrierSetupError: There is no torch.
        """
        assert self._listener is not None
        try:
            from torch.distributed import (  # type: ignore[attr-defined]  # not in its __all__
                TCPStore,
            )
        except ImportError as error:
            self._listener.close()
            raise BarrierSetupError(
                f"rank 0 hosts the {self._endpoint} and needs torch for it, which cannot be "
                f"imported ({error}); pip install torch on rank 0's host"
            ) from error
        # The store takes the socket over: it closes it in the end.
        listener, self._listener = self._listener.detach(), None
        self.store = TCPStore(
            self._endpoint.host,
            self._endpoint.port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener,
            use_libuv=use_libuv,
        )

    def end_in_child(self) -> None:
        """In a forked child: close its copies of the server's sockets, and no more.

        Else the port would stay taken, and the ranks would not notice the server's end, for as long
        as the child lives. Why all are found: the child has what was open at the fork, and no
        thread of the server that could open more. Why nobody else's are closed: only a socket that
        listens at the address, or was accepted there, has that address.
        """
        if self.store is not None:
            import ctypes  # torch has imported it already

            # Its destructor would wait for a thread that is not there, also when Python ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.store))
        if self._listener is not None:  # not given to torch yet
            self._listener.close()
        for descriptor in _open_sockets():
            sock = socket.socket(fileno=descriptor)
            if self._is_at_address(sock):
                sock.close()
            else:
                sock.detach()

    def _is_at_address(self, sock: socket.socket) -> bool:
        """Whether a socket listens at the server's address, or was accepted there."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        host, port = self._address
        with suppress(OSError):
            name = sock.getsockname()
            return name[1] == port and host in (name[0], "0.0.0.0", "::")
        return False


def _open_sockets() -> list[int]:
    """Return the descriptors of this process's sockets; none where the system lists none."""
    for folder in _DESCRIPTORS:
        with suppress(OSError):
            return [
                descriptor for descriptor in map(int, os.listdir(folder)) if _is_socket(descriptor)
            ]
    return []


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # that of the listing itself
        return False


def _check_interfaces(endpoint: Endpoint, address: str) -> None:
    """Warn where the server is to listen on all interfaces; refuse it where nobody has said so.

    Raises:
        BarrierSetupError: A name, or a number such as ``0``, stands for all interfaces.
    """
    if not _is_any(address):
        return
    if not _is_any(endpoint.host):
        raise BarrierSetupError(
            f"rank 0 cannot listen at master_address={shown(endpoint.host)}: it stands for all "
            "interfaces; give an address of rank 0's host, or 0.0.0.0 or :: if that is meant"
        )
    logger.warning(
        "rank 0 hosts the %s on all interfaces, where every host that reaches this one can change "
        "it; master_address should be the address at which the ranks reach this host",
        endpoint,
    )


def _is_any(address: str) -> bool:
    """Whether it is the address of all interfaces, as IPv4, IPv6, or IPv4 in IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_unspecified


def _listen(endpoint: Endpoint) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )[0]
        _check_interfaces(endpoint, str(address[0]))
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(socket.SOMAXCONN)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: "the port is taken: give all ranks another tcpstore_port, or close "
            "the barrier that has it. Two jobs get a port each where tcpstore_port is not "
            "given and each has a job_id or BARRIER_JOB_ID",
            errno.EADDRNOTAVAIL: "master_address must be an address of rank 0's host",
            errno.EACCES: "ports below 1024 need privileges: give a higher tcpstore_port",
        }
        remedy = exhausted(error) or remedies.get(
            error.errno or 0, "check master_address and tcpstore_port"
        )
        raise BarrierSetupError(
            f"rank 0 cannot listen at master_address={endpoint.host!r}, "
            f"tcpstore_port={endpoint.port}: {error}; {remedy}"
        ) from error
