"""Reads and writes files in folders where others may put anything: pipes, links, huge files."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 4 * 2**20
_FIRST_LINE_BYTES = 2**16
_DAMAGED = b"\0"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a regular file; yield its descriptor and its size.

    Raises:
        OSError: It cannot be opened, or is a pipe or a device: reading one might never end.
    """
    # A pipe that nobody writes to would hold up an open that may block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def first_line(path: Path) -> tuple[bytes, int]:
    """Return the first line of a regular file, cut after 64 KiB, and the file's size.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    with _opened(path) as (descriptor, size):
        return os.pread(descriptor, min(_FIRST_LINE_BYTES, size), 0).partition(b"\n")[0], size


def read_lines(path: Path, piece_bytes: int = _PIECE_BYTES) -> Iterator[tuple[bytes, int]]:
    """Yield the lines of a regular file, many at a time, and how far it has been read.

    Takes memory for two pieces, whatever the file's size. A line that is longer than a piece, or
    that has a hole of a sparse file in it, is given as a zero byte. What is written to the file
    meanwhile is not read.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    with _opened(path) as (descriptor, size):
        position, begun, damaged = 0, b"", False
        while position < size:
            data = _next_data(descriptor, position, size)
            if data > position:
                position, begun, damaged = data, b"", True
                continue
            piece = os.pread(descriptor, min(piece_bytes, size - position), position)
            if not piece:  # it has been cut meanwhile
                break
            position += len(piece)
            text = begun + piece
            end = text.rfind(b"\n") + 1
            begun = text[end:]
            if end and damaged:
                text, damaged = _DAMAGED + text[text.index(b"\n") : end], False
                end = len(text)
            if end:
                yield text[:end], position
            if len(begun) > piece_bytes:
                begun, damaged = b"", True
        if damaged or begun:
            yield _DAMAGED if damaged else begun, position


def _next_data(descriptor: int, position: int, size: int) -> int:
    """Return where the next bytes are that were ever written; the size if there are none."""
    try:
        return min(os.lseek(descriptor, position, os.SEEK_DATA), size)
    except OSError as error:
        # Else it is a file system that does not tell.
        return size if error.errno == errno.ENXIO else position


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Write a file, which is there whole or not at all; never through a link.

    Raises:
        OSError: The file cannot be written, or there is a link, a pipe or a device of this name.
    """
    try:
        _refuse_all_but_a_regular_file(path)
        # A new file under a name that nobody can know before, or none.
        draft = path.parent / f".barrier-report-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:  # with the name that the user knows
        raise OSError(error.errno, error.strerror, str(path)) from error


def _refuse_all_but_a_regular_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "it is a symbolic link; remove it, or give another name")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EEXIST, "it is no regular file; give another name")
