"""Bringing what every rank has to rank 0, in a round of a barrier."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import msgspec

from barrier_core.agreement.foreign import ForeignRecordError, decoder
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.store import ANSWER_SECS, StoreClient
from barrier_core.errors import BarrierUsageError
from barrier_core.verdict import format_ranks

_decode_brought = decoder(tuple[int, str], "what a rank brings")


def gather(
    client: StoreClient,
    keys: Keys,
    number: int,
    rank: int,
    world_size: int,
    value: str,
    go_through: Callable[[], None],
) -> list[str]:
    """Bring a value, go through a round, and on rank 0 return what every rank has brought.

    Args:
        client: A connection of its own, which is closed in the end.
        keys: The barrier's keys.
        number: The round.
        rank: The rank that brings it.
        world_size: Number of ranks.
        value: What this rank brings.
        go_through: Goes through the round.

    Raises:
        StoreLostError: The store was lost, outside the round.
        BarrierUsageError: On rank 0: other ranks have brought nothing.
    """
    key = keys.gathered(number)
    with closing(client):
        client.answer_by = time.monotonic() + ANSWER_SECS
        client.append(key, msgspec.json.encode((rank, value)) + b"\n")
        client.read([keys.job])  # once it answers, the store has the value
        go_through()
        if rank != 0:
            return []
        # Why this is safe: no rank comes to the next round but one, which has this key again,
        # before rank 0 has come to the next.
        client.answer_by = time.monotonic() + ANSWER_SECS
        brought = (client.read([key])[0] or b"").splitlines()
        client.remove([key])
    by_rank = dict(_read_brought(brought))
    without = set(range(world_size)) - by_rank.keys()
    if without:
        raise BarrierUsageError(
            f"rank 0 gathers in round {number}, but ranks {format_ranks(without)} brought "
            "nothing: all ranks must call gather()"
        )
    return [by_rank[rank] for rank in range(world_size)]


def _read_brought(lines: list[bytes]) -> Iterator[tuple[int, str]]:
    for line in lines:
        with suppress(ForeignRecordError):  # a line that no rank writes is left out
            yield _decode_brought(line)
