"""A proxy in front of a store, to make it slow."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class SlowProxy:
    """Passes everything on between clients and a store; answers come late, or no more.

    Args:
        port: The store's port.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        self.delay_secs = 0.0
        self.answers_left: int | None = None
        """So many more pieces of answers are passed on; None: all."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                store = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, store]
                for source, sink, late in ((client, store, False), (store, client, True)):
                    arguments = (source, sink, late)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, late: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                if late:
                    time.sleep(self.delay_secs)
                    if self.answers_left is not None:
                        if self.answers_left == 0:
                            continue
                        self.answers_left -= 1
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End all connections."""
        for each in (self._server, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
