"""Removing state that nobody needs any more, so that the store holds a bounded number of keys.

Finished rounds: rank 0 has them removed in batches. Why this is safe: when rank 0 has passed round
k, all ranks have arrived at k, so each of them has decided round k - 1 and will not look at it
again.

Generations: the last rank to leave removes everything. Where a rank has died, rank 0 of a later
generation does, but keeps the one just before its own, whose ranks may still be reading its
verdict.
"""

from __future__ import annotations

from urllib.parse import unquote

from barrier_core.agreement.keys import Keys
from barrier_core.agreement.membership import decode_job_description
from barrier_core.agreement.round_log import all_tags
from barrier_core.agreement.store import StoreClient

COLLECT_EVERY = 64
"""Rounds per batch; each leaves a log and a bell."""
_WINDOW = 4 * COLLECT_EVERY
"""Rounds that are looked at together when a generation ends; more than a batch."""


def retire(line: StoreClient, keys: Keys) -> None:
    """Remove everything that a generation has left in the store."""
    shape, collected = line.read([keys.shape, keys.collected])
    if shape is None:
        return  # nobody has joined, or it is done already
    world_size = decode_job_description(shape).world_size
    first = int(collected or b"0") + 1
    logs: list[bytes | None] = []
    # The watcher, which collects, may have been many batches behind.
    while not logs or logs[-1] is not None:
        start = first + len(logs)
        window = range(start, start + _WINDOW)
        logs += line.read([keys.round(number, "").log for number in window])
    outdated = []
    # A log goes after its bells, and after later rounds: while it stands, they can be found.
    for number, log in reversed(list(enumerate(logs, first))):
        if log is not None:
            outdated += [keys.round(number, tag).bell for tag in all_tags(log)]
            outdated.append(keys.round(number, "").log)
    for rank in range(world_size):
        outdated += [keys.member(rank), keys.pulse(rank)]
    outdated += [keys.gathered(0), keys.gathered(1)]
    # The shape goes last: while it stands, an interrupted removal is done again.
    line.remove([*outdated, keys.verdict, keys.alarm, keys.passed, keys.left, keys.collected])
    line.remove([keys.shape])


def retire_older(line: StoreClient, keys: Keys) -> None:
    """Remove the generations before the last one, and enter this one in the list of them."""
    known = (line.read([keys.generations])[0] or b"").decode().split()
    for generation in known[:-1]:
        retire(line, Keys(keys.prefix_name, unquote(generation)))
    kept = [name for name in known[-1:] if name != keys.generation_name]
    line.write(keys.generations, "\n".join([*kept, keys.generation_name]).encode())
