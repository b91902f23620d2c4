"""The log of a set-up that takes long: who waits, for whom, where, and for how long."""

from __future__ import annotations

import logging
import math

from barrier_core.agreement.overdue import Overdue

logger = logging.getLogger("barrier_core")


class SettingUp(Overdue):
    """Logs a line when a set-up has waited for the soft limit, and at widening intervals.

    There is no barrier yet that an observer could be told of.

    Args:
        rank: Who waits.
        prefix: The barrier's name.
        warn_after_secs: The soft limit in seconds; None: nothing is logged.
        limit_secs: How long it waits at most, in seconds, as far as is known.
        waits_for: What it waits for at first.
    """

    def __init__(
        self,
        rank: int,
        prefix: str,
        warn_after_secs: float | None,
        limit_secs: float,
        waits_for: str,
    ) -> None:
        super().__init__(warn_after_secs, self._log)
        self.waits_for = waits_for
        """What it waits for now, in words; any thread may change it."""
        self._rank = rank
        self._prefix = prefix
        self._limit = "" if math.isinf(limit_secs) else f"; gives up after {limit_secs:g} s"

    def _log(self, waited_secs: float) -> None:
        logger.warning(
            "rank %d has waited for %.0f s to set up %r: %s%s",
            self._rank,
            waited_secs,
            self._prefix,
            self.waits_for,
            self._limit,
        )
