"""A store as the protocol sees it, as one immutable value with TCPStore's semantics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from barrier_core.agreement.store import StoreClient

_K = TypeVar("_K", int, str)
_V = TypeVar("_V", int, str, bytes)


class Store(NamedTuple):
    """Everything that is not inside a rank: the store, answers on their way, and who has died.

    Sorted tuples rather than dictionaries: a state of the model must be hashable.
    """

    values: tuple[tuple[str, bytes], ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    """How many ranks each release signal has counted since it was last removed."""
    waiting: tuple[tuple[int, str], ...] = ()
    """Ranks that are counted in and not answered yet. Removing the signal leaves them here."""
    released: tuple[int, ...] = ()
    """Ranks to which the release signal is on its way."""
    dead: tuple[int, ...] = ()

    def read(self, key: str) -> bytes | None:
        return dict(self.values).get(key)

    def write(self, key: str, value: bytes) -> Store:
        return self._replace(values=_with(self.values, key, value))

    def create(self, key: str, value: bytes) -> tuple[Store, bytes]:
        """Put if absent; also return the value that stands."""
        standing = self.read(key)
        return (self.write(key, value), value) if standing is None else (self, standing)

    def append(self, key: str, record: bytes) -> Store:
        return self.write(key, canonical((self.read(key) or b"") + record))

    def count_in(self, rank: int, release: str, world_size: int) -> Store:
        """Count a rank in; when all are, everybody who waits there is released."""
        count = dict(self.counts).get(release, 0) + 1
        store = self._replace(
            counts=_with(self.counts, release, count), waiting=_with(self.waiting, rank, release)
        )
        if count < world_size:
            return store
        released = {waiter for waiter, key in store.waiting if key == release}
        return store._replace(
            waiting=tuple(pair for pair in store.waiting if pair[0] not in released),
            released=tuple(sorted({*store.released, *released})),
        )

    def withdraw(self, rank: int) -> tuple[Store, bool]:
        """Stop waiting; also return whether the release signal had come."""
        if rank in self.released:
            return self.receive(rank), True
        return self._replace(waiting=_without(self.waiting, rank)), False

    def receive(self, rank: int) -> Store:
        return self._replace(released=tuple(other for other in self.released if other != rank))

    def remove(self, key: str) -> Store:
        """Remove a value or a release signal. It wakes nobody, and counting starts at 1 again."""
        return self._replace(values=_without(self.values, key), counts=_without(self.counts, key))

    def bury(self, rank: int) -> Store:
        """A rank dies. The store notices its connection; what it has counted stays."""
        store, _ = self.withdraw(rank)
        return store._replace(dead=tuple(sorted((*self.dead, rank))))

    def flush(self) -> Store:
        """Forget every key. Ranks that wait are not told."""
        return self._replace(values=(), counts=())

    def forget(self, logs: Iterable[str], counts: Iterable[str]) -> Store:
        """Keep of logs who came, and of release signals that they are there."""
        return self._replace(
            values=tuple((k, _arrivals(v) if k in logs else v) for k, v in self.values),
            counts=tuple((k, 0 if k in counts else count) for k, count in self.counts),
        )


def canonical(log: bytes) -> bytes:
    """Bring logs that no rank can tell apart into one form, so that they count as one state.

    Why this loses nothing: a rank asks a log who came, and with which tag, before the first break,
    and what that break says; never in which order they came (which decides no more than who looks
    after a slow round). What follows the first break is not read, but for the tags, which the
    removal of a generation needs. `tests/core/agreement/test_round_log.py` shows it.
    """
    early, late = _split(log)
    late = [record for record in sorted(set(late)) if record.startswith(b"A")]
    # "A" sorts before "B": the break stays behind the arrivals.
    return b"".join([*sorted(set(early)), *late])


def visible(value: bytes | None) -> bytes | None:
    """Return what a rank can see of a log: nothing after the first break."""
    return None if value is None else b"".join(_split(value)[0])


def _arrivals(log: bytes) -> bytes:
    early, late = _split(log)
    return b"".join(sorted({record for record in early + late if record.startswith(b"A")}))


def _split(log: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the records up to and including the first break, and those after it."""
    records = log.splitlines(keepends=True)
    first = next((i for i, record in enumerate(records) if record.startswith(b"B")), len(records))
    return records[: first + 1], records[first + 1 :]


def _with(pairs: tuple[tuple[_K, _V], ...], key: _K, value: _V) -> tuple[tuple[_K, _V], ...]:
    return tuple(sorted({**dict(pairs), key: value}.items()))


def _without(pairs: tuple[tuple[_K, _V], ...], key: _K) -> tuple[tuple[_K, _V], ...]:
    return tuple(pair for pair in pairs if pair[0] != key)


class ModelClient(StoreClient):
    """A line to a copy of a model store, for code of the engine that runs when no rank does."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    @property
    def keys(self) -> list[str]:
        """What is in the store."""
        return [key for key, _ in (*self.store.values, *self.store.counts)]

    def append(self, key: str, record: bytes) -> None:
        self.store = self.store.append(key, record)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        values = dict(self.store.values)
        return [values.get(key) for key in keys]

    def create(self, key: str, value: bytes) -> bytes:
        self.store, standing = self.store.create(key, value)
        return standing

    def write(self, key: str, value: bytes) -> None:
        self.store = self.store.write(key, value)

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.store = self.store.remove(key)

    def close(self) -> None:
        pass
