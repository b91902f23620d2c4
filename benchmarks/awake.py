"""Keeping the cores awake while something is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_LATENCY_FILE = "/dev/cpu_dma_latency"
"""Linux heeds the least number of microseconds that a process which holds this open has written:
Documentation/power/pm_qos_interface.rst in its source."""


@contextmanager
def cores_awake(wanted: bool = True) -> Iterator[bool]:
    """Keep idle cores from going to sleep; says whether they are kept.

    Every rank waits for the others, so a barrier is made of wake-ups. In a virtual machine a core
    that has gone to sleep must be woken through its host, which takes as long as a whole round and,
    for minutes at a time, happens in each or in none. In jobs the cores are busy.
    """
    try:
        latency = os.open(_LATENCY_FILE, os.O_WRONLY) if wanted else None
    except OSError:  # not Linux, or not permitted
        latency = None
    if latency is None:
        yield False
        return
    try:
        os.write(latency, (0).to_bytes(4, "little"))
        yield True
    finally:
        os.close(latency)
