"""A store may drop what no rank has written or renewed: what is needed stays, the rest goes."""

from __future__ import annotations

from barrier_core.backends.local import STORE
from tests.support.injected_stores import InjectedAccess, StoreCall
from tests.support.local_ranks import LocalJob, arriving, wait_until

_KEEPING = ("append", "create", "write", "renew")


class DroppingStore(InjectedAccess):
    """A store that drops, when it is told to, what was not kept since the time before."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: set[str] = set()

    def after(self, call: StoreCall) -> None:
        if call.name in _KEEPING:
            self._kept.update(call.keys)

    def drop(self, job: LocalJob, *needed: str) -> None:
        """Drop what is not kept from now on until all of these keys have been."""
        self._kept = set()
        wait_until(lambda: self._kept.issuperset(needed))
        with STORE.lock:
            for key in set(job.stored) - self._kept:
                del STORE.values[key]


def test_what_ranks_need_is_renewed_at_every_heartbeat(job: LocalJob) -> None:
    store = DroppingStore()
    barriers = job.barriers(2, store, heartbeat_secs=0.01)
    arriving(*barriers).pass_()
    waiting = arriving(barriers[0])
    job.wait_until_arrived(0, number=2)
    log = job.keys.round(2, "")

    for _ in range(3):
        store.drop(job, job.keys.member(0), job.keys.member(1), log.log, log.release)

    arriving(barriers[1]).pass_()
    waiting.pass_()


def test_what_no_rank_needs_is_not_renewed(job: LocalJob) -> None:
    store = DroppingStore()
    barriers = job.barriers(2, store, heartbeat_secs=0.01)
    arriving(*barriers).pass_()

    store.drop(job, job.keys.member(0), job.keys.member(1))

    assert job.log(1) == b""
    assert job.keys.job in job.stored
