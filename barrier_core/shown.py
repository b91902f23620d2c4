"""How values look in messages: short, and without passwords."""

from __future__ import annotations

import re
import reprlib

_LONGEST = 200
"""Characters of a value in a message."""
_LONGEST_SEARCHED = 10_000
_PASSWORD = re.compile(r"(://[^\s:/?#@]*:)\S+@")


class _Shown(reprlib.Repr):
    """What a value looks like; never raises for a value that cannot be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = _LONGEST
        self.maxlong = 40

    def repr_str(self, x: str, level: int) -> str:
        # The password first: cut in two, it would not be found.
        return _cut(repr(without_passwords(x[:_LONGEST_SEARCHED])))

    def repr_bytes(self, x: bytes, level: int) -> str:
        return _cut(repr(x[:_LONGEST_SEARCHED]))

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write one of more than 4,300 digits.
        return repr(x) if x.bit_length() < 256 else f"(a number of {x.bit_length()} bits)"


_SHOWN = _Shown()


def shown(value: object) -> str:
    """Return the ``repr`` of a value for a message: cut, and with ``***`` for passwords in URLs."""
    try:
        return _cut(without_passwords(_SHOWN.repr(value)))
    except Exception:  # whoever writes a class can make any question fail
        return f"(a {type(value).__name__})"


def without_passwords(text: str) -> str:
    """Return a text with ``***`` for the password of each URL in it, as in ``redis://:***@host``.

    Up to the last ``@``, as a password may have one: rather too much is hidden than too little.
    """
    return _PASSWORD.sub(r"\1***@", text) if "://" in text else text


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
