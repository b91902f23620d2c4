"""A backend for one rank that writes down what the contract asks of it."""

from __future__ import annotations

from collections.abc import Callable

from barrier_core import Barrier, Capability, Verdict
from barrier_core.errors import failure


def do_nothing() -> None:
    pass


class Recording(Barrier):
    """Never waits for anybody: `meanwhile` is run in place of a wait."""

    barrier_type = "recording"
    capabilities = Capability.TIMEOUT | Capability.ABORT | Capability.PROGRESS

    def __init__(
        self,
        timeout_secs: float | None = 600.0,
        warn_after_secs: float | None = None,
        rank: int = 0,
    ) -> None:
        super().__init__(rank, rank + 1, timeout_secs, warn_after_secs)
        self.asked: list[tuple[object, ...]] = []
        self.meanwhile: Callable[[], None] = do_nothing
        """What happens while this rank waits."""

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        self.asked.append(("wait", number, timeout_secs, tag))
        self.meanwhile()

    def _abort(self, reason: str, round: int | None = None) -> None:
        self.asked.append(("abort", reason) if round is None else ("abort", reason, round))

    def _report_progress(self, progress: str) -> None:
        self.asked.append(("progress", progress))

    def _close(self) -> None:
        self.asked.append(("close",))


def break_round(barrier: Barrier) -> Callable[[], None]:
    """What fails the round that a barrier is in."""

    def fail() -> None:
        raise failure(Verdict("timeout", barrier.round + 1, reason="after 3 s"))

    return fail
