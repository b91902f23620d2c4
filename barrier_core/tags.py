"""What a tag says without its counters: how rounds of the same kind are grouped."""

from __future__ import annotations

import re

# Group 1 is a counter. A line number is matched first, and outside of the group.
_NUMBER = re.compile(r"(?<=\.py:)\d+|(\d+(?:\.\d+)*)")


def tag_without_numbers(tag: str) -> str:
    """Return a tag with ``#`` in place of every counter: ``save step=1200`` is ``save step=#``.

    Rounds whose tags differ only in their counters get the same text, so they can be added up. A
    counter is a number in decimal digits, with or without decimal points, wherever it stands:
    ``epoch3`` is ``epoch#``, ``shard 3/40`` is ``shard #/#`` and ``lr=0.5`` is ``lr=#``. The line
    number of a Python file says which code it was, so it is not a counter: ``train.py:64`` stays.
    """
    return _NUMBER.sub(lambda found: "#" if found[1] else found[0], tag)
