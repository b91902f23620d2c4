"""A trace folder that does not answer: it delays nobody, and what is missing is said."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from barrier_core import Barrier, BarrierTimeoutError, create_barrier
from barrier_core.hooks import plugin_manager
from barrier_core.observers import trace_writer
from barrier_core.observers.trace_format import SUFFIX, Line, PassedRound, TraceStart
from barrier_core.observers.trace_observer import TraceObserver
from barrier_core.testing.rank_threads import run_in_threads
from barrier_core.testing.ranks import wait_until
from tests.support.disks import Disk, mounted_disk

DEADLINE_SECS = 30.0
"""For what would wait for ever."""


class FrozenFolder:
    """A folder whose trace file cannot be opened until it is thawed: the file is a FIFO.

    Args:
        path: Where the FIFO goes.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fifo = path / "fifo"
        os.mkfifo(self._fifo)
        self._text = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        open_file = os.open

        def open_fifo(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            if str(path).endswith(SUFFIX):
                path, flags = self._fifo, os.O_WRONLY
            return open_file(path, flags, mode, **more)

        monkeypatch.setattr(os, "open", open_fifo)

    def thaw(self) -> None:
        """Let the file be opened and written."""
        self._thread.start()

    def lines(self) -> list[Line]:
        """Return what has been written, once the file is closed."""
        self._thread.join(DEADLINE_SECS)
        return msgspec.json.Decoder(Line).decode_lines(self._text)

    def _read(self) -> None:
        self._text = self._fifo.read_bytes()


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrozenFolder:
    return FrozenFolder(tmp_path, monkeypatch)


@pytest.fixture
def observer(tmp_path: Path, frozen: FrozenFolder) -> Iterator[TraceObserver]:
    observer = TraceObserver(tmp_path / "traces")
    plugin_manager.register(observer)
    yield observer
    plugin_manager.unregister(observer)


def make(rank: int, world_size: int = 1) -> Barrier:
    return create_barrier(
        "local", global_rank=rank, global_world_size=world_size, barrier_prefix="frozen"
    )


def passed_in(folder: Path) -> list[PassedRound]:
    """Return the rounds that have passed, by the files of a folder."""
    text = b"".join(path.read_bytes() for path in folder.glob(f"*{SUFFIX}"))
    lines = msgspec.json.Decoder(Line).decode_lines(text[: text.rfind(b"\n") + 1])
    return [line for line in lines if isinstance(line, PassedRound)]


def test_a_frozen_trace_folder_delays_no_round(
    observer: TraceObserver, frozen: FrozenFolder, caplog: pytest.LogCaptureFixture
) -> None:
    def go(rank: int) -> None:
        with make(rank) as barrier:
            for _ in range(10):
                barrier.execute_barrier()
        with make(rank, 2) as late, pytest.raises(BarrierTimeoutError):
            late.execute_barrier(timeout_secs=0.05)
        assert not observer.flush(0.0)

    run_in_threads(go, [0])
    frozen.thaw()
    observer.close()

    passed = [line.round for line in frozen.lines() if isinstance(line, PassedRound)]
    assert passed == list(range(1, 11))
    assert caplog.records == []


def test_rounds_that_find_too_many_waiting_are_dropped_and_counted(
    observer: TraceObserver,
    frozen: FrozenFolder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace_writer, "MAX_QUEUED", 5)

    def go(rank: int) -> None:
        with make(rank) as barrier:
            for _ in range(12):
                barrier.execute_barrier()

    with caplog.at_level(logging.WARNING, "barrier_core"):
        run_in_threads(go, [0])
        frozen.thaw()
        observer.close()
        lines = frozen.lines()

    assert [line.round for line in lines if isinstance(line, PassedRound)] == [1, 2, 3, 4, 5]
    assert [line.before for line in lines if isinstance(line, TraceStart)] == [7]
    first, last = (record.getMessage() for record in caplog.records)
    assert "rounds of rank 0 are missing in the trace from now on, as 5 wait" in first
    assert "7 rounds of rank 0 are missing in the trace" in last


def test_a_process_ends_although_its_trace_folder_is_frozen(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = (
        "import os\n"
        "from barrier_core import create_barrier\n"
        "open_file = os.open\n"
        f"os.open = lambda path, *more: open_file({str(tmp_path / 'fifo')!r}, os.O_WRONLY)\n"
        "with create_barrier('local', global_rank=0, global_world_size=1) as barrier:\n"
        "    for _ in range(3):\n"
        "        barrier.execute_barrier()\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "BARRIER_TRACE_DIR": str(tmp_path / "traces")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECS,
        check=True,
    )

    assert "3 rounds of rank 0 are missing in the trace" in ended.stderr


# --- on a disk that is really frozen --------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted_disk(tmp_path) as disk:
        yield disk


def state_of(pid: int) -> str:
    """Return the state of a process's main thread: Z has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_program_ends_although_its_disk_is_frozen(disk: Disk) -> None:
    """The kernel keeps what is left of the process, a zombie, until the disk is thawed."""
    script = (
        "from barrier_core import create_barrier\n"
        "with create_barrier('local', global_rank=0, global_world_size=1) as barrier:\n"
        "    barrier.execute_barrier()\n"
        "    input()\n"
        "    for _ in range(3):\n"
        "        barrier.execute_barrier()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "BARRIER_TRACE_DIR": str(disk.path / "traces")},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: len(passed_in(disk.path / "traces")) == 1, "a round is in the file")
        disk.freeze()
        try:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            wait_until(lambda: state_of(process.pid) == "Z", "it has ended", DEADLINE_SECS)
        finally:
            disk.thaw()
        _, said = process.communicate(timeout=DEADLINE_SECS)

        assert process.returncode == 0
    assert "3 rounds of rank 0 are missing in the trace" in said
