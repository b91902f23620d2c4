"""Every exception that this project raises on purpose."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from barrier_core.shown import without_passwords
from barrier_core.verdict import Verdict

_LONGEST_TEXT = 4_000  # bytes; every rank reads it

logger = logging.getLogger("barrier_core")


class BarrierError(Exception):
    """Base of all errors of this project. None shows the password of a URL."""

    def __init__(self, *args: object) -> None:
        super().__init__(*[without_passwords(arg) if isinstance(arg, str) else arg for arg in args])


class BarrierConfigError(BarrierError, ValueError):
    """The configuration is wrong; the message names the key, the value and the remedy."""


class UnknownBarrierTypeError(BarrierConfigError):
    """No installed or registered backend has this name."""


class BarrierPluginError(BarrierError, ImportError):
    """A backend is installed but cannot be used; the message names distribution and entry point."""


class BarrierUsageError(BarrierError, RuntimeError):
    """The call does not fit the barrier: closed, used by two threads at once, or not supported."""


class BarrierSetupError(BarrierError, RuntimeError):
    """The barrier could not be set up: the store is not there, or the port is taken."""


class RankConflictError(BarrierSetupError):
    """This process may not join: its rank is taken, or its job description differs."""


class BarrierFailedError(BarrierError):
    """A round did not pass. Base of the three errors that carry a verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict

    def __reduce__(self) -> tuple[type[BarrierFailedError], tuple[Verdict]]:
        # Errors cross process boundaries (torchrun's error files, concurrent.futures).
        return type(self), (self.verdict,)


class BarrierTimeoutError(BarrierFailedError, TimeoutError, threading.BrokenBarrierError):
    """A rank's hard time limit passed before all ranks had arrived.

    ``threading.Barrier`` raises its BrokenBarrierError for this, too: code that was written for it
    catches this one. It is no `BrokenBarrierError` of this project.
    """


class BrokenBarrierError(BarrierFailedError, threading.BrokenBarrierError):
    """The round was given up: an abort, a dead rank, different tags, or a conflicting process."""


class BarrierConnectionError(BarrierFailedError, ConnectionError):
    """The store was lost, so this rank cannot know whether the others passed."""


def failure(verdict: Verdict) -> BarrierFailedError:
    """Return the error for a verdict, the same class on every rank."""
    if verdict.kind == "timeout":
        return BarrierTimeoutError(verdict)
    if verdict.kind == "store":
        return BarrierConnectionError(verdict)
    return BrokenBarrierError(verdict)


def describe_exception(error: BaseException) -> str:
    """Return what the other ranks are told of an exception: ``OSError: disk full``."""
    return f"{type(error).__name__}: {as_text(error)}".removesuffix(": ")


def as_text(said: object) -> str:
    """Return what somebody has said as text that every store can hold, of at most 4,000 bytes."""
    try:
        text = str(said)
    except (Exception, GeneratorExit) as error:  # nobody else raises the latter
        text = f"{type(said).__name__} (its text cannot be had: {type(error).__name__})"
    # Half a surrogate cannot be encoded.
    data = str.encode(without_passwords(text), errors="backslashreplace")
    if len(data) > _LONGEST_TEXT:
        data = data[: _LONGEST_TEXT - 3] + b"..."
    return data.decode(errors="ignore")


def is_normal_end(error: BaseException) -> bool:
    """Whether a program that is left by this exception has done what it should."""
    return isinstance(error, GeneratorExit) or (
        isinstance(error, SystemExit) and error.code in (None, 0)
    )


def attempt(what: str, step: Callable[..., object], *args: object) -> None:
    """Do something while an exception is on its way, which no other may replace."""
    try:
        step(*args)
    except Exception:
        logger.warning("could not %s", what, exc_info=True)
