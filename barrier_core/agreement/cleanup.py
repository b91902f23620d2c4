"""Removing state that nobody needs any more, so that the store holds a bounded number of keys.

Finished rounds: rank 0 has them removed in batches. Why this is safe: when rank 0 has passed round
k, all ranks have arrived at k, so each of them has decided round k - 1 and will not look at it
again.

Generations: the last rank to leave removes everything. Where a rank has died, rank 0 of a later
generation does, but keeps the one just before its own, whose ranks may still be reading its
verdict.
"""

from __future__ import annotations

from collections.abc import Callable

from barrier_core.agreement.foreign import read_number
from barrier_core.agreement.keys import Keys, Series
from barrier_core.agreement.membership import decode_job_description
from barrier_core.agreement.round_log import all_tags
from barrier_core.agreement.store import StoreClient

BATCH_ROUNDS = 64
"""Rounds that are removed together; each leaves a log and a release signal."""
_WINDOW = 4 * BATCH_ROUNDS
"""Rounds that are looked at together when a generation ends; more than a batch."""

Batch = list[tuple[int, Series]]
"""Rounds one after another, with the series of the tag that this rank came with."""


class FinishedRounds:
    """The rounds that have passed and whose keys are still there; kept by rank 0.

    Args:
        remove: Has a batch removed (`remove_rounds`), off the fast path.
    """

    def __init__(self, remove: Callable[[Batch], None]) -> None:
        self._remove = remove
        self._batch: Batch = []

    def add(self, number: int, series: Series) -> None:
        """Take one more round; a full batch of those before it is removed."""
        if len(self._batch) >= BATCH_ROUNDS:
            # Not the round just passed: others may still be asking its log.
            self._remove(self._batch)
            self._batch = []
        self._batch.append((number, series))


def remove_rounds(client: StoreClient, keys: Keys, batch: Batch) -> None:
    """Remove the keys of finished rounds; all before them are gone."""
    finished = [series.keys(number) for number, series in batch]
    # A log goes after its release signal: while it stands, `remove_all` can find what is left.
    client.remove([key for round_keys in finished for key in (round_keys.release, round_keys.log)])
    client.write(keys.cleaned_up, b"%d" % batch[-1][0])


def remove_all(client: StoreClient, keys: Keys) -> None:
    """Remove everything that a generation has left in the store."""
    job, cleaned_up = client.read([keys.job, keys.cleaned_up])
    if job is None:
        return  # nobody has joined, or it is done already
    world_size = decode_job_description(job).world_size
    first = read_number(cleaned_up or b"0", "the number of a round") + 1
    logs: list[bytes | None] = []
    # The watcher, which removes batches, may have been many of them behind.
    while not logs or logs[-1] is not None:
        start = first + len(logs)
        window = range(start, start + _WINDOW)
        logs += client.read([keys.round(number, "").log for number in window])
    outdated = []
    # A log goes after its release signals, and after later rounds: while it stands, they are found.
    for number, log in reversed(list(enumerate(logs, first))):
        if log is not None:
            outdated += [keys.round(number, tag).release for tag in all_tags(log)]
            outdated.append(keys.round(number, "").log)
    for rank in range(world_size):
        outdated += [keys.member(rank), keys.heartbeat(rank)]
    outdated += [keys.gathered(0), keys.gathered(1)]
    # The job's key goes last: while it stands, an interrupted removal is done again.
    client.remove([*outdated, keys.verdict, keys.alarm, keys.passed, keys.left, keys.cleaned_up])
    client.remove([keys.job])


def remove_older(client: StoreClient, keys: Keys) -> None:
    """Remove the generations before the last one, and enter this one in the list of them."""
    known = (client.read([keys.generations])[0] or b"").decode().split()
    for generation in known[:-1]:
        remove_all(client, keys.of_generation(generation))
    kept = [name for name in known[-1:] if name != keys.generation_name]
    client.write(keys.generations, "\n".join([*kept, keys.generation_name]).encode())
