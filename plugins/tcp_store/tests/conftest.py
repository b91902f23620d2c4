"""Fixtures: four rank processes and a store's process, started once for all tests."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from barrier_core.testing.rank_processes import RankProcesses
from plugins.tcp_store.tests.rank_functions import (
    Job,
    close,
    count_keys,
    end_server,
    serve_store,
)
from tests.support import ports
from tests.support.network import Network

_numbers = itertools.count(1)

NewJob = Callable[..., Job]


@dataclass(frozen=True)
class StoreProcess:
    """A process that serves TCPStores, so that none of the ranks needs to."""

    processes: RankProcesses

    def serve(self, use_libuv: bool) -> int:
        """Start a server; return its port."""
        port = ports.free_port()
        self.processes.run(0, serve_store, port, use_libuv)
        return port

    def restart(self, port: int) -> None:
        """End torch's default server, and start an empty one at its port."""
        self.end(port)
        self.processes.run(0, serve_store, port, True)

    def end(self, port: int) -> None:
        """End a server."""
        self.processes.run(0, end_server, port)

    def count_keys(self, port: int) -> int:
        """Return the number of keys in a store."""
        return self.processes.run(0, count_keys, port)

    def stop(self) -> None:
        """Freeze all servers."""
        self.processes.stop(0)

    def cont(self) -> None:
        """Let the servers go on."""
        self.processes.cont(0)


@pytest.fixture(scope="session")
def _rank_processes() -> Iterator[RankProcesses]:
    with RankProcesses(4, timeout_secs=60) as processes:
        yield processes


@pytest.fixture(scope="session")
def store_process() -> Iterator[StoreProcess]:
    with RankProcesses(1, timeout_secs=60) as processes:
        yield StoreProcess(processes)


@pytest.fixture(scope="session")
def libuv_port(store_process: StoreProcess) -> int:
    """Port of the server that torch starts by default."""
    return store_process.serve(use_libuv=True)


@pytest.fixture(scope="session")
def older_port(store_process: StoreProcess) -> int:
    """Port of the server with a thread that polls, which torch has kept."""
    return store_process.serve(use_libuv=False)


@pytest.fixture
def own_port(store_process: StoreProcess) -> Iterator[int]:
    """Port of an empty server for one test."""
    port = store_process.serve(use_libuv=True)
    yield port
    store_process.end(port)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens at."""
    return ports.free_port()


@pytest.fixture
def _jobs() -> list[Job]:
    """The jobs of one test."""
    return []


@pytest.fixture
def ranks(_rank_processes: RankProcesses, _jobs: list[Job]) -> Iterator[RankProcesses]:
    """Four rank processes, all of them idle."""
    _rank_processes.refresh()
    yield _rank_processes
    _rank_processes.refresh()
    for job in _jobs:
        calls = _rank_processes.start_all(close, job)
        for call in calls:
            call.result()


@pytest.fixture
def new_job(libuv_port: int, _jobs: list[Job]) -> NewJob:
    """Describes a barrier with a prefix of its own: over the session's store, if not told else."""

    def new_job(**changes: object) -> Job:
        job = Job(f"test-{next(_numbers)}", agent_port=libuv_port).but(**changes)
        _jobs.append(job)
        return job

    return new_job


@pytest.fixture
def job(new_job: NewJob) -> Job:
    """A barrier over the session's store."""
    return new_job()


@pytest.fixture(params=["libuv", "older", "polling"])
def any_job(request: pytest.FixtureRequest, new_job: NewJob, libuv_port: int) -> Job:
    """A barrier over each of torch's servers, and over one that has no BARRIER."""
    if request.param == "older":
        port: int = request.getfixturevalue("older_port")
        return new_job(agent_port=port)
    return new_job(agent_port=libuv_port, can_count=request.param == "libuv")


@pytest.fixture
def hosted_job(new_job: NewJob, free_port: int) -> Job:
    """A barrier whose store rank 0 hosts."""
    return new_job(agent_port=None, master_address="127.0.0.1", tcpstore_port=free_port)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two hosts."""
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which need root")
    with ExitStack() as stack:
        try:
            network = Network(["left", "right"])
            stack.callback(network.remove)
            network.lay()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces or TUN devices cannot be made here: {error}")
        yield network
