"""Options that nobody must see: passwords, tokens, keys."""

from __future__ import annotations

import os
from typing import Annotated

from msgspec import Meta

from barrier_core.errors import BarrierConfigError
from barrier_core.files import read_file


class Secret:
    """A text that is shown as ``***`` everywhere; `reveal` returns it.

    The author of a backend annotates an option with it: ``password: Secret | None = None``. Users
    then give a text, ``file:PATH`` or ``env:NAME`` in the config, in the environment or to
    ``create_barrier``, and the constructor gets a `Secret`. A backend that is also made by its
    class calls `Secret.of` in its constructor, which takes all of these.

    It can be pickled, to be handed to another process; a pickle shows it.

    Args:
        text: What nobody must see.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def of(cls, name: str, value: Secret | str) -> Secret:
        """Return the secret that a user means.

        Args:
            name: What errors call the option. They never show the value.
            value: A secret, or a text. ``file:PATH`` stands for what is in a file, without the
                newline at its end, and ``env:NAME`` for a variable of the environment.

        Raises:
            BarrierConfigError: It is neither, it is empty, or file or variable is not there.
        """
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise BarrierConfigError(
                f"{name} is a {type(value).__name__}, and must be a text, file:PATH or env:NAME"
            )
        kind, colon, place = value.partition(":")
        if colon and kind == "file":
            what = f"the file of {name}, {place!r},"
            try:
                value = read_file(place, what).decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise BarrierConfigError(f"{what} is not text in UTF-8") from None
        elif colon and kind == "env":
            value = os.environ.get(place, "")
            if not value:
                raise BarrierConfigError(
                    f"{name} is to come from the environment variable {place!r}, which is not set"
                )
        if not value:
            raise BarrierConfigError(f"{name} is empty: give a text, file:PATH or env:NAME")
        return cls(value)

    def reveal(self) -> str:
        """Return the text. Put it into no message."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)


JobSecret = Annotated[
    Secret | None,
    Meta(description="known to this job's ranks only; BARRIER_SECRET if not given"),
]
