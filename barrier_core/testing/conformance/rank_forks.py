"""What the conformance suite has a rank's forked children do."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from barrier_core.errors import BarrierUsageError
from barrier_core.testing.conformance.rank_side import Visit, _open, _watched
from barrier_core.testing.rank_spec import TEST_TIMEOUT_SECS

DID_IT, REFUSED = 0, 3
"""Exit codes of a child: what it called has returned, or raised a `BarrierUsageError`."""
_DESCRIPTORS = "/proc/self/fd"


def _in_child(action: Callable[[], object]) -> int:
    """Run something in a forked child; return its exit code."""
    child = os.fork()
    if child == 0:
        # What the parent has let go of is not the child's to destroy: a process group of torch's
        # that is collected here ends the child by SIGSEGV.
        gc.disable()
        code = 1
        try:
            action()
            code = DID_IT
        except BarrierUsageError:
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return _exit_code(child)


def _exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def call_in_child(worker: int, key: str, method: str, *args: object) -> int:
    """Call one of the barrier's methods in a forked child; return its exit code."""
    return _in_child(lambda: getattr(_open[worker, key], method)(*args))


def leave_context_in_child(worker: int, key: str) -> int:
    """Leave the barrier by the end of a ``with`` block in a forked child; return its exit code."""

    def leave() -> None:
        with _open[worker, key]:
            pass

    return _in_child(leave)


def leave_phase_in_child(worker: int, key: str, tag: str) -> tuple[int, list[Visit]]:
    """Leave a phase in a rank and, before that, in a child that was forked inside it.

    Returns:
        The child's exit code, and what the rank saw.
    """
    barrier = _open[worker, key]
    code = 1

    def phase() -> None:
        nonlocal code
        with barrier.phase(tag):
            child = os.fork()
            if child != 0:
                code = _exit_code(child)
        if child == 0:
            os._exit(DID_IT)

    parent = os.getpid()
    visit = _watched(worker, barrier, phase)
    if os.getpid() != parent:
        os._exit(REFUSED if isinstance(visit.error, BarrierUsageError) else 1)
    return code, [visit]


def exit_in_phase_in_child(worker: int, key: str, tag: str) -> tuple[int, list[Visit]]:
    """As `leave_phase_in_child`, but the child ends as a script does, by ``sys.exit``."""
    barrier = _open[worker, key]
    code = 1

    def phase() -> None:
        nonlocal code
        with barrier.phase(tag):
            child = os.fork()
            if child == 0:
                sys.exit(0)
            code = _exit_code(child)

    visit = _watched(worker, barrier, phase)
    return code, [visit]


def fork_a_child_that_stays(worker: int, key: str) -> int:
    """Fork a child that does nothing, as a data loader's worker may; return its pid."""
    child = os.fork()
    if child == 0:
        time.sleep(TEST_TIMEOUT_SECS)  # unless it is killed before
        os._exit(0)
    return child


def sockets_in_child(worker: int) -> set[str]:
    """Return the sockets that a forked child has open; none where the system does not list them."""
    reader, writer = os.pipe()

    def tell() -> None:
        names = []
        for descriptor in os.listdir(_DESCRIPTORS) if os.path.isdir(_DESCRIPTORS) else ():
            with suppress(OSError):  # that of the listing itself
                names.append(os.readlink(f"{_DESCRIPTORS}/{descriptor}"))
        os.write(writer, " ".join(name for name in names if name.startswith("socket:")).encode())

    with open(reader, "rb") as told:
        _in_child(tell)
        os.close(writer)
        return set(told.read().decode().split())
