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
    "append": lambda line: line.append("key", b"value"),
    "read": lambda line: line.read(["key"]),
    "create": lambda line: line.create("key", b"value"),
    "write": lambda line: line.write("key", b"value"),
    "remove": lambda line: line.remove(["key"]),
    "arrive": lambda line: line.arrive(of_rank(0), 1),
}
