"""Reading what stands in the store: whoever reaches the store may have written it.

A log is read line by line, and a line that no rank writes is left out: every reader leaves out the
same ones, so all still decide the same. Any other value that no rank writes says that somebody else
writes to the barrier's keys. Such a store is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

_LONGEST_NUMBER = 18  # digits
_FIXED_BYTES = 2**20
_BYTES_PER_RANK = 2**14
"""More than two reasons of 4,000 bytes, also where each of them is written as an escape."""


class StoreLostError(ConnectionError):
    """The store did not answer, or closed the connection. The engine makes a verdict of it."""


class ForeignRecordError(StoreLostError):
    """The store holds, at one of the barrier's keys, what no rank writes."""


def decoder(kind: type[T], what: str) -> Callable[[bytes], T]:
    """Return what reads a value of JSON.

    Call it at import: msgspec looks into a class when it is first decoded, and two threads that
    decode one for the first time at once crash the process (msgspec 0.22).

    Args:
        kind: What it must be.
        what: What an error calls it, such as ``a verdict``.
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(value: bytes) -> T:
        try:
            return decode(value)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as error:
            raise foreign(what, value, str(error)) from None

    return read


def read_number(value: bytes, what: str) -> int:
    """Return a number of 0 or more that a rank has written."""
    if not (value.isdigit() and len(value) <= _LONGEST_NUMBER):
        raise foreign(what, value, "it is no number")
    return int(value)


def foreign(what: str, value: bytes, why: str) -> ForeignRecordError:
    """Return the error for a value that no rank has written."""
    shown = repr(value[:60])[1:] + ("..." if len(value) > 60 else "")
    return ForeignRecordError(
        f"somebody who is no rank of this job writes to it: where {what} belongs stands {shown} "
        f"({why})"
    )


def longest_value(world_size: int) -> int:
    """Return how many bytes a value of a barrier can have at most."""
    return _FIXED_BYTES + _BYTES_PER_RANK * world_size
