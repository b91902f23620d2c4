"""Leaving a barrier: the rank that hosts the store goes last."""

from __future__ import annotations

import time

from barrier_core.agreement.keys import Keys
from barrier_core.agreement.membership import FailureDetector, leave, read_left
from barrier_core.agreement.store import StoreClient
from barrier_core.agreement.watcher import LOOK_SECS
from barrier_core.verdict import RankStatus

_FAILED_LINGER_SECS = 5.0
"""After a failure: whoever waited has the verdict, and who is late must not hold up the exit."""
_POLL_SECS = 0.05


def sign_off(
    line: StoreClient,
    keys: Keys,
    rank: int,
    world_size: int,
    examiner: FailureDetector,
    linger_secs: float,
    failed: bool,
) -> bool:
    """Leave, and wait until the others have, too, or will never come back. True if all have left.

    Args:
        line: The rank's line, which is of no use to anybody else by now.
        keys: The barrier's keys.
        rank: The rank that leaves.
        world_size: Number of ranks.
        examiner: Tells whether those that have not left live.
        linger_secs: How long, in seconds, to wait at most; 0 unless the store dies with this rank.
        failed: Whether a round has failed; there is less to wait for then.
    """
    everyone = set(range(world_size))
    left = leave(line, keys, rank)
    now = time.monotonic()
    deadline = now + (min(linger_secs, _FAILED_LINGER_SECS) if failed else linger_secs)
    next_look = now
    while left != everyone and (now := time.monotonic()) < deadline:
        if now >= next_look:
            next_look = now + LOOK_SECS
            absent = examiner.examine(line, everyone - left)
            if all(_is_gone(status, failed) for status in absent):
                break
        time.sleep(_POLL_SECS)
        left = read_left(line, keys)
        if rank not in left:  # the last to leave has removed everything
            return True
    return left == everyone


def _is_gone(status: RankStatus, failed: bool) -> bool:
    """Whether a rank will never come back to the store: dead, or never there."""
    return status.state == "dead" or (status.host is None and failed)
