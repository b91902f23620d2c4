"""Text that came from elsewhere, made safe for terminals and logs."""

from __future__ import annotations

import re

# Control characters, also those of eight bits, which some terminals obey; what changes the order of
# the characters or breaks a line; half of a surrogate pair, which no output can encode.
UNSAFE = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[{UNSAFE}]")


def printable(text: str, keep: str = "") -> str:
    r"""Return a text in which every character that a terminal obeys is written as its escape.

    A host, a tag, a message or a file name can hold such characters: they would clear the screen,
    rename the window or hide a line. ``\u001b`` stands for each escape character then. The text of
    a JSON document stays the same document.

    Args:
        text: What to write.
        keep: Characters that stay as they are, such as the newlines of a whole document.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(character: str) -> str:
    return "\\n" if character == "\n" else f"\\u{ord(character):04x}"
