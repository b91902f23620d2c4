"""The limit: a central server on plain sockets, one byte there and one byte back."""

from __future__ import annotations

import select
import socket
import threading

from benchmarks.contender import HOST, TIMEOUT_SECS, Contender


class RawSocketContender(Contender):
    """No names, no timeouts, no verdicts: the least that one round trip can cost from Python."""

    title = "raw socket (limit)"

    def __init__(self, rank: int, world_size: int, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=TIMEOUT_SECS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)

    @classmethod
    def serve(cls, world_size: int) -> int:
        listener = socket.create_server((HOST, 0), backlog=world_size)
        port: int = listener.getsockname()[1]
        threading.Thread(target=_serve, args=(listener, world_size), daemon=True).start()
        return port

    def wait(self) -> None:
        self._socket.send(b"a")
        self._socket.recv(1)

    def leave(self) -> None:
        self._socket.close()


def _serve(listener: socket.socket, world_size: int) -> None:
    """Serve one world until its ranks close their connections."""
    with listener:
        clients = [listener.accept()[0] for _ in range(world_size)]
    poll = select.epoll()
    by_descriptor = {client.fileno(): client for client in clients}
    for client in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(client, select.EPOLLIN)
    arrived = 0
    while True:
        for descriptor, _ in poll.poll():
            if not by_descriptor[descriptor].recv(1):
                return
            arrived += 1
        if arrived == world_size:
            arrived = 0
            for client in clients:
                client.send(b"r")


CONTENDER = RawSocketContender
