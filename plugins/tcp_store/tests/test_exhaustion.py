"""A process that has run out of descriptors or threads says so, and blames nothing else."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from barrier_core.errors import BarrierSetupError
from barrier_tcp_store import TCPStoreBarrier
from tests.support.environments import ROOT


@pytest.fixture(autouse=True)
def _agent(libuv_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's store is found as torchrun's; child processes find it, too."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(libuv_port))


def count_open() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # that of the listing itself


def limit_to(descriptors: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


def make_with_ever_more_descriptors() -> None:
    """Make a barrier with one more descriptor each time, until it works. Runs in a child."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def make() -> None:
        with TCPStoreBarrier(0, 1, "few") as barrier:
            barrier.execute_barrier()

    make()  # once, for all that is opened only once
    opened = count_open()
    messages = []
    for more in range(40):
        limit_to(opened + more)
        try:
            make()
        except BarrierSetupError as error:
            limit_to(before)
            messages.append(str(error))
        else:
            limit_to(before)
            break
        if count_open() != opened:
            raise AssertionError("a descriptor is left open")
    print("\n".join(messages))


def host_for_600_ranks_with_1024_descriptors(port: int) -> None:
    """Host a store for more ranks than there is room for. Runs in a child."""
    limit_to(1024)
    try:
        TCPStoreBarrier(0, 600, tcpstore_port=port, master_address="127.0.0.1")
    except BarrierSetupError as error:
        print(error)


def in_a_child(function: str, *arguments: int) -> str:
    """Run a function of this module in a process of its own; return what it writes."""
    code = f"from {__name__} import {function}; {function}{arguments}"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_rank_without_descriptors_says_so_at_every_step() -> None:
    messages = in_a_child("make_with_ever_more_descriptors").splitlines()

    assert 5 < len(messages) < 40
    for message in messages:
        assert "open files, and has all of them; a barrier needs up to 24" in message
        assert "master_address" not in message


def test_a_host_without_descriptors_for_all_ranks_says_how_many_it_needs(free_port: int) -> None:
    out = in_a_child("host_for_600_ranks_with_1024_descriptors", free_port)

    assert "rank 0 hosts the store for 600 ranks and needs 12" in out
    assert "but this process may have 1024: raise the limit (`ulimit -n 12" in out


def test_a_rank_that_cannot_start_a_thread_says_so_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def start_no_watcher(thread: threading.Thread) -> None:
        if thread.name.startswith("barrier-watcher"):
            raise RuntimeError("can't start new thread")
        start(thread)

    opened = count_open()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_no_watcher)
        with pytest.raises(
            BarrierSetupError, match="no thread can be started, and a barrier needs"
        ):
            TCPStoreBarrier(0, 1, "no threads")
    assert count_open() == opened
    with TCPStoreBarrier(0, 1, "no threads") as barrier:
        barrier.execute_barrier()
