"""Backends of processes that are wrong on purpose, and the conformance suite for each.

As with `wrong_backends`, `test_wrong_on_purpose.py` runs it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from barrier_core.plugin_api import StoreLostError
from barrier_core.testing import BarrierContract, MakeBarrier, RankProcesses, RankSpec
from barrier_core.testing.ranks import Ranks
from tests.support.socket_store import SocketBarrier, SocketClient, SocketStore


class _ForgetfulClient(SocketClient):
    """Asks the next question, whatever has become of the one before."""

    def _interrupted(self) -> None:
        pass


class LeavesAnswersUnread(SocketBarrier):
    """Takes the answer to a question that a signal has cut short for that to the next one."""

    client = _ForgetfulClient


class _TrustingClient(SocketClient):
    """Takes the server that it finds for the one that it has lost."""

    def _ask(self, operation: str, *arguments: Any) -> Any:
        try:
            return super()._ask(operation, *arguments)
        except StoreLostError:
            self._connect()
            return super()._ask(operation, *arguments)

    def _read_log(self, log: str) -> bytes:
        return self.read([log])[0] or b""


class ConnectsAnewSilently(SocketBarrier):
    """Goes on with a server that was started anew, and is empty."""

    client = _TrustingClient


class HasNoHeartbeats(SocketBarrier):
    """Declares that it finds dead ranks, and looks after none of another machine."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"heartbeat_secs": 0.0})


class _SharedClient(SocketClient):
    """Leaves its connection open in a forked child."""

    def close_in_child(self) -> None:
        pass


class SharesItsConnections(SocketBarrier):
    """Has children that keep up a dead rank's connections."""

    client = _SharedClient


class _OneJobClient(SocketClient):
    """Takes the job's id out of all keys."""

    def _ask(self, operation: str, *arguments: Any) -> Any:
        return super()._ask(operation, *(_without_job(each) for each in arguments))


def _without_job(argument: Any) -> Any:
    if isinstance(argument, str) and argument.startswith("barrier/"):
        first, _, *others = argument.split("/")
        return "/".join([first, *others])
    return argument


class IgnoresTheJob(SocketBarrier):
    """Takes the id of a job, and has one set of keys for all jobs."""

    client = _OneJobClient


class IgnoresTheGeneration(SocketBarrier):
    """Takes a generation, and has one set of keys for all."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"generation": "0"})


class KeepsKeysForTwoLimits(SocketBarrier):
    """Has the store drop what was not written for twice as long as a wait may take."""

    _keep_secs: ClassVar[float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        type(self)._keep_secs = 2 * options["timeout_secs"]
        super().__init__(*arguments, **options)

    def connect(self, port: int) -> SocketClient:
        client = super().connect(port)
        client.keep_secs = self._keep_secs
        return client


def make(backend: type[SocketBarrier], port: int, spec: RankSpec) -> SocketBarrier:
    return backend(
        spec.rank,
        spec.world_size,
        port=port,
        barrier_prefix=spec.name,
        generation=spec.generation,
        timeout_secs=spec.timeout_secs,
        warn_after_secs=spec.warn_after_secs,
        job_id=spec.job_id,
    )


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RankProcesses]:
    with RankProcesses(4) as ranks:
        yield ranks


class _Contract(BarrierContract):
    backend: ClassVar[type[SocketBarrier]]
    ranks_are = "processes"
    patience_secs = 3.0

    @pytest.fixture
    def ranks(self, four_ranks: RankProcesses) -> Ranks:
        """One set of processes for all classes."""
        four_ranks.refresh()
        return four_ranks

    @pytest.fixture
    def store(self) -> Iterator[SocketStore]:
        with SocketStore() as store:
            yield store
            store.shutdown()

    @pytest.fixture
    def make_barrier(self, store: SocketStore) -> MakeBarrier:
        return functools.partial(make, self.backend, store.port)

    @pytest.fixture
    def count_keys(self, store: SocketStore) -> Callable[[], int]:
        return store.count_keys

    @pytest.fixture
    def empty_store(self, store: SocketStore) -> Callable[[], None]:
        return store.empty


class TestSocketBarrier(_Contract):
    """What the wrong ones derive from is right."""

    patience_secs = BarrierContract.patience_secs
    backend = SocketBarrier


class TestLeavesAnswersUnread(_Contract):
    backend = LeavesAnswersUnread


class TestConnectsAnewSilently(_Contract):
    backend = ConnectsAnewSilently


class TestHasNoHeartbeats(_Contract):
    backend = HasNoHeartbeats


class TestSharesItsConnections(_Contract):
    backend = SharesItsConnections


class TestIgnoresTheJob(_Contract):
    backend = IgnoresTheJob


class TestIgnoresTheGeneration(_Contract):
    backend = IgnoresTheGeneration


class TestKeepsKeysForTwoLimits(_Contract):
    backend = KeepsKeysForTwoLimits
