"""Reading a small file that a user has named, whatever is at its path."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from barrier_core.errors import BarrierConfigError

_MOST_BYTES = 16 * 2**20


def read_file(path: str | os.PathLike[str], what: str) -> bytes:
    """Return what is in a file; never waits for anybody.

    Args:
        path: The file.
        what: What messages call it.

    Raises:
        BarrierConfigError: There is no file, it cannot be read, or is larger than 16 MiB.
    """
    try:
        # At once, also where it is a FIFO that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        folder = ""
        with suppress(OSError):  # it may have been removed
            folder = f" (working directory {Path.cwd()})"
        raise BarrierConfigError(f"{what} does not exist{folder}") from None
    except OSError as error:
        raise BarrierConfigError(f"{what} cannot be read: {error.strerror}") from error
    except (TypeError, ValueError) as error:  # no path, or one with a NUL
        raise BarrierConfigError(
            f"{what} cannot be read: {error}; give the path of a file"
        ) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            why = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "it is a FIFO or a device"
            raise BarrierConfigError(f"{what} cannot be read: {why}; give the path of a file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BarrierConfigError(f"{what} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > _MOST_BYTES:
        raise BarrierConfigError(f"{what} cannot be read: it has more than {_MOST_BYTES} bytes")
    return content
