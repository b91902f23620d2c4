"""Logs which ranks a round waits for, while it waits."""

from __future__ import annotations

import logging

from barrier_core.contract import Barrier
from barrier_core.hooks import hookimpl
from barrier_core.verdict import RankStatus, describe_missing, describe_round

logger = logging.getLogger("barrier_core")


class LogObserver:
    """Writes one line when a round has waited for ``warn_after_secs``, and at widening intervals.

    One rank writes for all, so that a job of 512 ranks logs one line and not 511. On by default;
    ``logging.getLogger("barrier_core")`` sets its level.
    """

    @hookimpl
    def barrier_waiting(
        self,
        barrier: Barrier,
        round: int,
        tag: str,
        waited_secs: float,
        missing: tuple[RankStatus, ...],
        reporter: bool,
    ) -> None:
        """Write the line."""
        if reporter:
            logger.warning(
                "%s %s (after %.0f s)",
                describe_round(round, tag),
                describe_missing(missing, barrier.rank_info.global_world_size),
                waited_secs,
            )
