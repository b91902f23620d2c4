"""Ways to get at the store of this process that make things happen at chosen moments."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from barrier_core.agreement.foreign import StoreLostError
from barrier_core.agreement.keys import Series
from barrier_core.agreement.round_log import passed
from barrier_core.agreement.store import Joining, StoreAccess, StoreClient
from barrier_core.backends.local import STORE, LocalClient
from tests.support.local_ranks import wait_until


class PollingClient(LocalClient):
    """A client of a store that cannot block: waiting is asking again and again."""

    wait = StoreClient.wait
    wake = StoreClient.wake


class LateClient(LocalClient):
    """A client that learns that all have arrived only when its time is over."""

    def wait(self, timeout_secs: float) -> bool:
        log, world_size = self._waits_for
        wait_until(lambda: passed(STORE.values[log], world_size))
        time.sleep(timeout_secs)
        return False


class FollowingAccess(StoreAccess):
    """Its ranks wait for rank 0, as those of a store that rank 0 hosts do."""

    patience_secs = 20.0

    def open(self, joining: Joining) -> StoreClient:
        client = super().open(joining)
        if joining.rank != 0:
            joining.wait_for_host(client, time.monotonic() + self.patience_secs)
        return client


POLLING = StoreAccess("store that is asked", lambda: PollingClient(STORE))
LATE = StoreAccess("store that answers late", lambda: LateClient(STORE))
FOLLOWING = FollowingAccess("store with a host", lambda: LocalClient(STORE))


class StoreCall(NamedTuple):
    """What a rank is about to ask of its store, or has asked."""

    name: str
    """Of the method; ``connect`` when a connection is opened."""
    keys: tuple[str, ...] = ()


class InjectedAccess(StoreAccess):
    """The store of this process, as one rank gets at it; a test overrides `before` and `after`.

    Both are called on the thread that asks the store.
    """

    def __init__(self) -> None:
        super().__init__("injected store", self._connect)
        self.is_lost = False
        """Whether every call fails, from now on."""

    def before(self, call: StoreCall) -> None:
        """Called before every call."""

    def after(self, call: StoreCall) -> None:
        """Called after every call that has not raised."""

    @contextmanager
    def injecting(self, name: str, *keys: str) -> Iterator[None]:
        """Surround a call of the store with what is injected."""
        call = StoreCall(name, keys)
        self.before(call)
        if self.is_lost:
            raise StoreLostError("it burnt down")
        yield
        self.after(call)

    def _connect(self) -> StoreClient:
        with self.injecting("connect"):
            return InjectedClient(self)


class InjectedClient(LocalClient):
    """A client of an `InjectedAccess`."""

    def __init__(self, access: InjectedAccess) -> None:
        super().__init__(STORE)
        self._access = access

    def arrive(self, series: Series, number: int) -> None:
        with self._access.injecting("arrive", series.keys(number).log):
            super().arrive(series, number)

    def append(self, key: str, record: bytes) -> None:
        with self._access.injecting("append", key):
            super().append(key, record)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        assert keys
        with self._access.injecting("read", *keys):
            return super().read(keys)

    def create(self, key: str, value: bytes) -> bytes:
        with self._access.injecting("create", key):
            return super().create(key, value)

    def write(self, key: str, value: bytes) -> None:
        with self._access.injecting("write", key):
            super().write(key, value)

    def remove(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        assert keys
        with self._access.injecting("remove", *keys):
            super().remove(keys)

    def renew(self, keys: Sequence[str]) -> None:
        with self._access.injecting("renew", *keys):
            super().renew(keys)

    def wait(self, timeout_secs: float) -> bool:
        with self._access.injecting("wait"):
            return super().wait(timeout_secs)
