"""Removing state that nobody needs any more, so that the store holds a bounded number of keys.

Finished rounds: rank 0 has them removed in batches. Why this is safe: when rank 0 has passed round
k, all ranks have arrived at k, so each of them has decided round k - 1 and will not look at it
again.

Generations: each barrier's key ``generations`` lists those that may have left something in the
store, in the order in which they began. A rank that joins one enters it there before it leaves any
other key.

- The last rank to leave a generation removes it, and those before it that are over. With the last
  generation goes the list.
- Where a rank has died, nobody is the last. The first rank to join a generation therefore removes
  those of the job's earlier generations, and rank 0 also the earlier barriers of its own. Each
  keeps the one just before its own, whose ranks may still be reading its verdict.

Why this is safe: entries are appended, and the list is only read and written back when a generation
is removed. What another rank appends between the two is lost. So a rank that has joined looks
whether its generation is listed, and enters it again if not (`confirm`). An entry is lost only if
the rank that removes is held up between the two, for as long as the other takes to join. State of
a barrier that is in use is never removed because of that. The keys of that one generation stay if
it is not left by all its ranks.

Outside of generations, a store holds a constant number of keys: ``barrier/hosted-for`` and those
of the backend, such as ``barrier/counts`` and ``barrier/namespace`` of ``tcp_store``.
"""

from __future__ import annotations

from collections.abc import Callable

from barrier_core.agreement.foreign import read_number
from barrier_core.agreement.keys import Keys, Series, generation_names
from barrier_core.agreement.liveness import is_running, machine_id
from barrier_core.agreement.membership import decode_job_description, decode_member, read_left
from barrier_core.agreement.round_log import all_tags
from barrier_core.agreement.store import StoreClient
from barrier_core.errors import BarrierSetupError

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
    outdated += [keys.gathered(0), keys.gathered(1), keys.replacing]
    # The job's key goes last: while it stands, an interrupted removal is done again.
    client.remove([*outdated, keys.verdict, keys.alarm, keys.passed, keys.left, keys.cleaned_up])
    client.remove([keys.job])


def register(client: StoreClient, keys: Keys) -> None:
    """Enter a generation in the list of those that may have left something in the store."""
    if keys.generation_name not in _listed(client, keys):
        _enter(client, keys)


def confirm(client: StoreClient, keys: Keys, job: bytes, rank: int) -> None:
    """See that what a rank has left in joining will be found when the generation is removed.

    Args:
        client: The rank's connection.
        keys: The barrier's keys.
        job: The job's record, as the rank found it.
        rank: The rank.

    Raises:
        BarrierSetupError: The generation has been removed meanwhile.
    """
    standing, names = client.read([keys.job, keys.generations])
    if standing is None:
        client.remove([keys.member(rank), keys.alarm])
    if standing != job:
        raise BarrierSetupError(
            f"the generation {keys.generation_name} of the barrier {keys.prefix_name!r} was over "
            f"when rank {rank} joined it; start all ranks in a new generation"
        )
    if keys.generation_name not in generation_names(names):
        _enter(client, keys)


def remove_older(client: StoreClient, keys: Keys, barriers: bool) -> None:
    """Remove the generations before the last one that began before this one.

    Args:
        client: The rank's connection.
        keys: Of this generation.
        barriers: Whether to remove earlier barriers of the same generation of the job, too. Ranks
            that missed them may still come to them and be told their verdicts: only rank 0 may.
    """
    outdated = [
        each for each in _before(client, keys)[:-1] if barriers or not keys.is_of_same_job(each)
    ]
    _remove(client, keys, outdated)


def remove_finished(client: StoreClient, keys: Keys) -> None:
    """Remove a generation that all ranks have left, and those before it that are over."""
    over = [each for each in _before(client, keys) if _is_over(client, each, keys)]
    _remove(client, keys, [*over, keys])


def _is_over(client: StoreClient, older: Keys, keys: Keys) -> bool:
    """Whether all who were in a generation have left it, are gone, or were replaced in a later one.

    Args:
        client: The rank's connection.
        older: Of the generation.
        keys: Of the later one, which all ranks have left.
    """
    (job,) = client.read([older.job])
    if job is None:
        return True
    ranks = range(decode_job_description(job).world_size)
    left = read_left(client, older)
    members = client.read([older.member(rank) for rank in ranks])
    later = client.read([keys.member(rank) for rank in ranks])
    for rank, record, replacement in zip(ranks, members, later, strict=True):
        if record is None or rank in left:
            continue
        member = decode_member(record)
        if member.machine == machine_id() and not is_running(member.pid, member.started):
            continue
        if replacement is None or decode_member(replacement).is_same_process(member):
            return False
    return True


def _remove(client: StoreClient, keys: Keys, outdated: list[Keys]) -> None:
    """Remove generations, and then their entries; not the other way round, or none would be found.

    Args:
        client: The rank's connection.
        keys: Of one of the barrier's generations.
        outdated: The generations.
    """
    if not outdated:
        return
    for each in outdated:
        remove_all(client, each)
    names = {each.generation_name for each in outdated}
    kept = [name for name in _listed(client, keys) if name not in names]
    if kept:
        client.write(keys.generations, "".join(f"{name}\n" for name in kept).encode())
    else:
        client.remove([keys.generations])


def _before(client: StoreClient, keys: Keys) -> list[Keys]:
    """Return the generations that began before this one."""
    names = _listed(client, keys)
    if keys.generation_name in names:
        del names[names.index(keys.generation_name) :]
    return [keys.of_generation(name) for name in names]


def _enter(client: StoreClient, keys: Keys) -> None:
    client.append(keys.generations, f"{keys.generation_name}\n".encode())


def _listed(client: StoreClient, keys: Keys) -> list[str]:
    """Return the names of the generations in the list, in the order in which they began."""
    return generation_names(client.read([keys.generations])[0])
