"""Forwards the connections that iptables redirects to its port; see test_firewalls.py."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from contextlib import suppress

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h


def main() -> None:
    """Forward until its input ends."""
    server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
    os.setuid(1)  # whose connections are not redirected
    # A change of user takes away the signal by which the end of unshare(1) would end this.
    threading.Thread(target=end_with_input, daemon=True).start()
    print("listens", flush=True)
    while True:
        near, _ = server.accept()
        address = near.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        port, host = struct.unpack("!2xH4s8x", address)
        far = socket.socket()
        far.connect((socket.inet_ntoa(host), port))
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=copy, args=(source, target), daemon=True).start()


def end_with_input() -> None:
    """End, as if killed, when the input does."""
    sys.stdin.read()
    os._exit(0)


def copy(source: socket.socket, target: socket.socket) -> None:
    """Send on what comes, to the end of it."""
    with suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
            print("forwards", flush=True)
        target.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
