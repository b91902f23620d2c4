"""A disk that can freeze: ext4 on a loop device. Linux; it needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BYTES = 8 * 2**20


class Disk:
    """A file system of its own. While it is frozen, who writes to it waits, and cannot be killed.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frozen: subprocess.Popen[bytes] | None = None

    def freeze(self) -> None:
        """Have all writes wait, until the disk is thawed or this process ends."""
        # A process of its own thaws: it also does when this one has been killed.
        script = 'fsfreeze --freeze "$0" && echo && cat && fsfreeze --unfreeze "$0"'
        command = ["sh", "-c", script, str(self.path)]
        self._frozen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._frozen.stdout is not None
        assert self._frozen.stdout.readline() == b"\n", "it cannot be frozen"

    def thaw(self) -> None:
        """Let the writes go on."""
        if self._frozen is not None:
            self._frozen.communicate(timeout=60)
            self._frozen = None


@contextmanager
def mounted_disk(folder: Path) -> Iterator[Disk]:
    """Make a disk, and remove it in the end; skip the test where that is not possible."""
    missing = [name for name in ("mkfs.ext4", "mount", "fsfreeze") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a disk needs root; not found: {', '.join(missing) or 'nothing'}")
    image, path = folder / "disk.img", folder / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(_BYTES)
    try:
        _run("mkfs.ext4", "-q", "-F", image)
        _run("mount", "-o", "loop", image, path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no disk can be mounted here: {error.stderr.strip()}")
    disk = Disk(path)
    try:
        yield disk
    finally:
        disk.thaw()
        # Lazily: a process may not have closed its files yet.
        _run("umount", "--lazy", path)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
