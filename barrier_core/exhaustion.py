"""What this process or machine has run out of: descriptors, memory, threads."""

from __future__ import annotations

import errno
import sys

DESCRIPTORS = 24
"""Open files that a barrier of one rank needs at most, unless many ranks look after it."""


def exhausted(error: BaseException) -> str | None:
    """Say what has run out, and what to do; None where the error is about something else."""
    if isinstance(error, MemoryError):
        return "no memory is left; give this process more, or run fewer on this host"
    if isinstance(error, RuntimeError) and "new thread" in str(error):  # CPython has only the text
        return (
            "no thread can be started, and a barrier needs one; raise the number of processes that "
            "this user or container may have (`ulimit -u`, pids.max), or give it more memory"
        )
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EMFILE:
        return (
            f"this process may have {descriptor_limit()} open files, and has all of them; a "
            f"barrier needs up to {DESCRIPTORS}: raise the limit (`ulimit -n`, RLIMIT_NOFILE)"
        )
    if error.errno == errno.ENFILE:
        return "this host has as many open files as it may have; raise fs.file-max"
    if error.errno in (errno.ENOMEM, errno.ENOBUFS):
        return "the kernel of this host has no memory left; run fewer processes on it"
    return None


def descriptor_limit() -> int:
    """Return how many open files this process may have."""
    import resource  # here, as Windows has none

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
