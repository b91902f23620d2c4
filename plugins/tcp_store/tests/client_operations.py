"""What one of two ranks can ask of its connection to the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from barrier_core.agreement.keys import Keys, Series
from barrier_tcp_store.wire import TCPStoreClient


def of_rank(number: int, tag: str = "") -> Series:
    """What one of two ranks arrives with."""
    return Keys("ckpt", "0").series(number, 2, tag)


OPERATIONS: dict[str, Callable[[TCPStoreClient], Any]] = {
    "append": lambda client: client.append("key", b"value"),
    "read": lambda client: client.read(["key"]),
    "create": lambda client: client.create("key", b"value"),
    "write": lambda client: client.write("key", b"value"),
    "remove": lambda client: client.remove(["key"]),
    "arrive": lambda client: client.arrive(of_rank(0), 1),
}
