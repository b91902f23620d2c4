"""Leaving a barrier: the rank that hosts the store goes last."""

from __future__ import annotations

import time

from barrier_core.agreement.failure_detector import FailureDetector
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.membership import note_left, read_left
from barrier_core.agreement.store import StoreClient
from barrier_core.verdict import RankStatus

_FAILED_LINGER_SECS = 5.0
"""After a failure: whoever waited has the verdict, and who is late must not hold up the exit."""
_LOOK_SECS = 0.5
"""How often to look whether those live who have not left."""
_POLL_SECS = 0.05


def leave(
    client: StoreClient,
    keys: Keys,
    rank: int,
    world_size: int,
    failure_detector: FailureDetector,
    linger_secs: float,
    failed: bool,
) -> bool:
    """Leave, and wait until the others have, too, or will never come back. True if all have left.

    Args:
        client: The rank's connection, which is of no use to anybody else by now.
        keys: The barrier's keys.
        rank: The rank that leaves.
        world_size: Number of ranks.
        failure_detector: Tells whether those that have not left live.
        linger_secs: How long, in seconds, to wait at most; 0 unless the store dies with this rank.
        failed: Whether a round has failed; there is less to wait for then.

    Raises:
        StoreLostError: The store was lost.
    """
    everyone = set(range(world_size))
    left = note_left(client, keys, rank)
    now = time.monotonic()
    deadline = now + (min(linger_secs, _FAILED_LINGER_SECS) if failed else linger_secs)
    next_look = now
    while left != everyone and (now := time.monotonic()) < deadline:
        if now >= next_look:
            next_look = now + _LOOK_SECS
            absent = failure_detector.examine(client, everyone - left)
            if all(_is_gone(status, failed) for status in absent):
                break
        time.sleep(_POLL_SECS)
        left = read_left(client, keys)
        if rank not in left:  # the last to leave has removed everything
            return True
    return left == everyone


def _is_gone(status: RankStatus, failed: bool) -> bool:
    """Whether a rank will never come back to the store: dead, just left, or never there."""
    return status.state in ("dead", "left") or (status.host is None and failed)
