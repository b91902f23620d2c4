"""This process: its host and boot, and what becomes of its objects in a forked child.

A forked child gets a copy of every object, and only one thread. A lock that another thread held
stays locked there for ever, and a connection or a server is still its parent's. Two things help:
`after_fork` has an object start afresh in the child, and `Owner` says whether the object is this
process's own.
"""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Literal

logger = logging.getLogger("barrier_core")

_callbacks: dict[int, Callable[[], Callable[[], object] | None]] = {}
"""In the order in which they were given. Why it needs no lock: each change is one operation."""
_numbers = itertools.count()


def after_fork(callback: Callable[[], object]) -> None:
    """Have ``callback`` called first thing in each child that this process forks.

    It may replace locks and forget what is the parent's; it must not wait for anybody. What it
    raises is logged. Its children's children call it, too. Nothing happens where the system cannot
    fork, and in a child that runs another program.

    Args:
        callback: A function or a class method, which is kept for ever; or a method, which is called
            as long as its object exists, and does not keep the object alive.
    """
    number = next(_numbers)
    if isinstance(callback, MethodType) and not isinstance(callback.__self__, type):
        _callbacks[number] = weakref.WeakMethod(callback, lambda _: _callbacks.pop(number, None))
    else:
        _callbacks[number] = lambda: callback


def _call_back() -> None:
    for reference in list(_callbacks.values()):
        callback = reference()
        if callback is not None:
            try:
                callback()
            except Exception:
                logger.exception("%r failed in a forked child; going on", callback)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_call_back)


class Owner:
    """The process that has made an object. A forked child has a copy, and is not the owner."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def is_this_process(self) -> bool:
        """Whether the calling process made the object."""
        return self._pid == os.getpid()


def host_name() -> str:
    """Return the name of this host, as the system has it."""
    import socket  # here, as it is a tenth of what importing the core costs

    return socket.gethostname()


@cache
def boot_id() -> str | None:
    """Return what names this boot of this machine, in containers, too; None if not on Linux."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def namespace_id(kind: Literal["pid", "time"]) -> int | None:
    """Return the number of a namespace that this process is in; None where there is no such kind.

    Processes with one `boot_id` and one ``pid`` namespace call a process by the same pid; those
    with one ``time`` namespace have the same monotonic clock.
    """
    try:
        return Path(f"/proc/self/ns/{kind}").stat().st_ino
    except OSError:  # not Linux, or an older one
        return None
