"""A disk that is full cuts a record off: who wrote it is told, and nobody else is misled."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from barrier_file import FileBarrier, FileClient

from barrier_core.plugin_api import BarrierConnectionError, StoreLostError

PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Have the kernel cut off what this process writes beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 pages."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={16 * PAGE}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system, and not in every container")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def line(tmp_path: Path) -> FileClient:
    return FileClient(tmp_path / "store")


@pytest.mark.parametrize("written", range(1, 8))
def test_a_record_that_is_cut_off_anywhere_does_not_count_and_spoils_no_other(
    line: FileClient, written: int
) -> None:
    line.append("log", b"A1\n")
    with files_no_longer_than(len("(A1.)") + written), pytest.raises(StoreLostError, match="half"):
        line.append("log", b"A23456\n")

    line.append("log", b"A3\n")

    assert line.read(["log"]) == [b"A1\nA3\n"]


def test_a_draft_that_does_not_fit_is_taken_away(line: FileClient, tmp_path: Path) -> None:
    with files_no_longer_than(4), pytest.raises(StoreLostError):
        line.write("verdict", b"a long one")

    assert list((tmp_path / "store").iterdir()) == []


def test_a_log_on_a_full_disk_is_as_it_was_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    line = FileClient(small_disk)
    first = b"A" * (PAGE - 8)
    line.append("log", first)  # which leaves a few bytes of its page
    filler = small_disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:  # until the disk is full
            file.write(bytes(PAGE))

    with pytest.raises(StoreLostError):
        line.append("log", b"A2 and more than fits\n")
    filler.unlink()
    line.append("log", b"A3\n")

    assert line.read(["log"]) == [first + b"A3\n"]


def test_a_rank_whose_arrival_is_cut_off_raises_a_connection_error(tmp_path: Path) -> None:
    with FileBarrier(0, 1, str(tmp_path)) as barrier:
        barrier.execute_barrier()
        with files_no_longer_than(2), pytest.raises(BarrierConnectionError, match="half written"):
            barrier.execute_barrier()
