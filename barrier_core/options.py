"""The options that backends share: their types, their words in `barrier info`, their checks."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from barrier_core.errors import BarrierConfigError

DEFAULT_TIMEOUT_SECS = 600.0
DEFAULT_WARN_AFTER_SECS = 30.0
DEFAULT_HEARTBEAT_SECS = 5.0
DEFAULT_LINGER_SECS = 30.0
LONGEST_WAIT_SECS = 86_400.0
"""No single call of the system waits longer, as each of them has a maximum; whoever calls it goes
on waiting."""
_LONGEST_NAME = 500  # bytes; quoted in a key, each may become three

# The options that every backend shares, with the words `barrier info` shows for them.
GlobalRank = Annotated[int, Meta(description="this process's rank; from the launcher if not given")]
GlobalWorldSize = Annotated[
    int, Meta(description="number of ranks; from the launcher if not given")
]
TimeoutSecs = Annotated[
    float | None,
    Meta(
        description="hard limit in seconds on one wait, also per call of execute_barrier; "
        "none or inf: no limit"
    ),
]
WarnAfterSecs = Annotated[
    float | None,
    Meta(description="soft limit in seconds after which observers hear who is missing; none: off"),
]
BarrierPrefix = Annotated[
    str, Meta(description="name of this barrier; barriers with different ones never meet")
]
Generation = Annotated[
    str | None,
    Meta(description="changes when the whole job restarts; from the launcher if not given"),
]
JobId = Annotated[
    str | None,
    Meta(
        description="tells this job from others that use the same store or host; BARRIER_JOB_ID or "
        "the launcher's own id if not given"
    ),
]
JobSecret = Annotated[
    str | None,
    Meta(
        description="known to this job's ranks only; BARRIER_SECRET or the file that "
        "BARRIER_SECRET_FILE names if not given"
    ),
]
Verify = Annotated[
    bool,
    Meta(description="authenticate every record with the secret, and read each round's log"),
]
HeartbeatSecs = Annotated[
    float, Meta(description="seconds between heartbeats; 0: none, dead ranks are found by pid")
]
ProgressExtendsDeadline = Annotated[
    bool, Meta(description="count the hard limit from the late ranks' last reported progress")
]
LingerSecs = Annotated[
    float,
    Meta(
        description="how long the rank that hosts the store waits for others in close(), in "
        "seconds; 5 at most after a failure"
    ),
]


def check_seconds(name: str, value: float, *, zero: bool = False) -> float:
    """Return ``value`` if it is a positive, finite number of seconds.

    Args:
        name: What the error calls it.
        value: What a user has given.
        zero: Whether 0 is allowed as well.

    Raises:
        BarrierConfigError: It is not.
    """
    seconds = _seconds(value)
    if not (math.isfinite(seconds) and (seconds > 0 or (zero and seconds == 0))):
        least = "0 or a positive" if zero else "a positive"
        raise BarrierConfigError(f"{name}={value!r} must be {least}, finite number of seconds")
    return seconds


def check_limit(name: str, value: float | None) -> float:
    """Return a time limit in seconds: ``value`` if it is positive; infinity for None.

    Raises:
        BarrierConfigError: It is no positive number, nor infinity.
    """
    seconds = math.inf if value is None else _seconds(value)
    if not seconds > 0:
        raise BarrierConfigError(
            f"{name}={value!r} must be a positive number of seconds, or inf for no limit"
        )
    return seconds


def _seconds(value: float) -> float:
    """Return ``value`` as a float; nan where it is no number, or one that no float can hold."""
    try:
        math.isnan(value)  # float() alone would read text
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, ArithmeticError):
        return math.nan


def check_name(what: str, name: str) -> None:
    """Raise unless ``name`` can be part of a key: a tag or prefix of at most 500 bytes.

    Raises:
        BarrierConfigError: It cannot.
    """
    try:
        # Bytes, not characters: TCPStore's server closes the connection at a key of over 8,192.
        usable = len(name.encode()) <= _LONGEST_NAME
    except (AttributeError, UnicodeEncodeError):  # no text, or one with half a surrogate
        usable = False
    if not usable:
        raise BarrierConfigError(f"{what}={name!r} must be a text of at most {_LONGEST_NAME} bytes")
