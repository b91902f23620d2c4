"""A store that this process serves over a socket, its client, and a barrier on it.

The client does nothing but what the contract asks. Wrong backends derive from it.
"""

from __future__ import annotations

import pickle
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from barrier_core.plugin_api import (
    BarrierPrefix,
    Capability,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    HeartbeatSecs,
    JobId,
    StoreAccess,
    StoreBarrier,
    StoreClient,
    StoreLostError,
    TimeoutSecs,
    WarnAfterSecs,
)

_SIZE = struct.Struct("=Q")


class _Connection(socketserver.StreamRequestHandler):
    """Answers one client."""

    server: SocketStore
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.server.connections.add(self.request)
        try:
            while True:
                operation, keep_secs, arguments = pickle.load(self.rfile)
                answer = pickle.dumps(self.server.perform(operation, keep_secs, arguments))
                self.request.sendall(_SIZE.pack(len(answer)) + answer)
        except (EOFError, OSError):
            self.server.connections.discard(self.request)


class SocketStore(socketserver.ThreadingTCPServer):
    """A dictionary; every operation is atomic."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port: int = self.server_address[1]
        self.connections: set[socket.socket] = set()
        self._values: dict[str, tuple[bytes, float]] = {}
        """By key: its value, and until when it is kept, in monotonic seconds."""
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def perform(self, operation: str, keep_secs: float, arguments: Any) -> Any:
        """Do what a client asks for."""
        with self._lock:
            return getattr(self, f"_{operation}")(time.monotonic() + keep_secs, *arguments)

    def count_keys(self) -> int:
        """Return the number of keys."""
        return len(self._values)

    def empty(self) -> None:
        """Be as a server that was started anew: without any key, and without connections."""
        with self._lock:
            self._values.clear()
        for connection in list(self.connections):
            connection.shutdown(socket.SHUT_RDWR)

    def _get(self, key: str) -> bytes | None:
        value, kept_until = self._values.get(key, (None, 0.0))
        return value if time.monotonic() < kept_until else None

    def _read(self, until: float, *keys: str) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _append(self, until: float, key: str, record: bytes) -> None:
        self._values[key] = ((self._get(key) or b"") + record, until)

    def _create(self, until: float, key: str, value: bytes) -> bytes:
        standing = self._get(key)
        if standing is None:
            self._values[key] = (value, until)
        return value if standing is None else standing

    def _write(self, until: float, key: str, value: bytes) -> None:
        self._values[key] = (value, until)

    def _remove(self, until: float, *keys: str) -> None:
        for key in keys:
            self._values.pop(key, None)


class SocketClient(StoreClient):
    """Sends each operation as a question, and waits for its answer."""

    keep_secs = 1e9
    """For how long the store is to keep what is written."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._connect()

    def _connect(self) -> None:
        try:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=5)
        except OSError as error:
            raise StoreLostError(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _ask(self, operation: str, *arguments: Any) -> Any:
        try:
            self._socket.settimeout(max(self.answer_deadline() - time.monotonic(), 0.001))
            self._socket.sendall(pickle.dumps((operation, self.keep_secs, arguments)))
            return pickle.loads(self._receive(*_SIZE.unpack(self._receive(_SIZE.size))))
        except (EOFError, OSError) as error:
            self.close()
            raise StoreLostError(str(error) or "it closed the connection") from error
        except BaseException:
            self._interrupted()
            raise

    def _receive(self, size: int) -> bytes:
        answer = b""
        while len(answer) < size:
            part = self._socket.recv(size - len(answer))
            if not part:
                raise EOFError
            answer += part
        return answer

    def _interrupted(self) -> None:
        """See to it that an answer that is still to come answers no other question."""
        self.close()

    def append(self, key: str, record: bytes) -> None:
        self._ask("append", key, record)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        answer: list[bytes | None] = self._ask("read", *keys)
        return answer

    def create(self, key: str, value: bytes) -> bytes:
        answer: bytes = self._ask("create", key, value)
        return answer

    def write(self, key: str, value: bytes) -> None:
        self._ask("write", key, value)

    def remove(self, keys: Iterable[str]) -> None:
        self._ask("remove", *keys)

    def close(self) -> None:
        # Nothing with a lock, which another thread may have had when this child was forked.
        self._socket.close()

    def address(self) -> str | None:
        return "127.0.0.1"


class SocketBarrier(StoreBarrier):
    """A barrier over a `SocketStore`."""

    barrier_type = "socket"
    capabilities: ClassVar[Capability] = StoreBarrier.capabilities
    client: ClassVar[type[SocketClient]] = SocketClient

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        port: int,
        barrier_prefix: BarrierPrefix,
        generation: Generation,
        timeout_secs: TimeoutSecs,
        warn_after_secs: WarnAfterSecs,
        job_id: JobId,
        heartbeat_secs: HeartbeatSecs = 5.0,
    ) -> None:
        super().__init__(
            global_rank,
            global_world_size,
            store=StoreAccess(f"store at port {port}", lambda: self.connect(port)),
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=heartbeat_secs,
            progress_extends_deadline=False,
            job_id=job_id,
        )

    def connect(self, port: int) -> SocketClient:
        """Open a connection."""
        return self.client(port)
