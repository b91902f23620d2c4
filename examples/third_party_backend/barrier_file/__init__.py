"""The ``file`` barrier: ranks of one host meet in a directory."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, ClassVar

from barrier_core.plugin_api import (
    DEFAULT_TIMEOUT_SECS,
    DEFAULT_WARN_AFTER_SECS,
    BarrierPrefix,
    Generation,
    GlobalRank,
    GlobalWorldSize,
    JobId,
    Meta,
    StoreAccess,
    StoreBarrier,
    StoreClient,
    StoreLostError,
    TimeoutSecs,
    WarnAfterSecs,
)

_BEGIN, _END = b"\2", b"\3"
"""Around every record. One without its end is still being written, or the disk was full: it does
not count."""


class FileClient(StoreClient):
    """One file per key. The README says why each operation is atomic."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        with _as_store_errors():
            directory.mkdir(parents=True, exist_ok=True)

    def append(self, key: str, record: bytes) -> None:
        """Write at the end of the file, in one write."""
        with _as_store_errors(), open(self._path(key), "ab", buffering=0) as file:
            whole = _BEGIN + record + _END
            if file.write(whole) < len(whole):
                raise OSError(errno.ENOSPC, "the record is only half written", file.name)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read of each file the records that are complete."""
        return [self._read(key) for key in keys]

    def create(self, key: str, value: bytes) -> bytes:
        """Write a file of another name, and link it to this one's if that is free."""
        with _as_store_errors(), self._written(value) as draft:
            while True:
                with suppress(FileExistsError):
                    os.link(draft, self._path(key))
                    return value
                standing = self._read(key)
                if standing is not None:  # it may have been removed since
                    return standing

    def write(self, key: str, value: bytes) -> None:
        """Write a file of another name, and put it in this one's place."""
        with _as_store_errors(), self._written(value) as draft:
            os.replace(draft, self._path(key))

    def remove(self, keys: Iterable[str]) -> None:
        """Remove the files that are there."""
        with _as_store_errors():
            for key in keys:
                self._path(key).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is open between two operations."""

    def _path(self, key: str) -> Path:
        # A key may be longer than the name of a file, and has slashes.
        return self._directory / hashlib.sha256(key.encode()).hexdigest()

    def _read(self, key: str) -> bytes | None:
        with _as_store_errors(), suppress(FileNotFoundError):
            records = self._path(key).read_bytes().split(_BEGIN)
            return b"".join(record[:-1] for record in records if record.endswith(_END))
        return None

    @contextmanager
    def _written(self, value: bytes) -> Iterator[str]:
        file, draft = tempfile.mkstemp(prefix=".draft-", dir=self._directory)
        try:
            with open(file, "wb") as stream:
                stream.write(_BEGIN + value + _END)
            yield draft
        finally:
            with suppress(FileNotFoundError):  # it has been put in another file's place
                os.unlink(draft)


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreLostError(str(error)) from error


class FileBarrier(StoreBarrier):
    """A barrier between the processes of one host, which share a directory."""

    barrier_type: ClassVar[str] = "file"
    contract_version: ClassVar[int] = 2

    def __init__(
        self,
        global_rank: GlobalRank,
        global_world_size: GlobalWorldSize,
        directory: Annotated[str, Meta(description="a directory of this host; made if missing")],
        barrier_prefix: BarrierPrefix = "barrier",
        generation: Generation = None,
        timeout_secs: TimeoutSecs = DEFAULT_TIMEOUT_SECS,
        warn_after_secs: WarnAfterSecs = DEFAULT_WARN_AFTER_SECS,
        job_id: JobId = None,
    ) -> None:
        path = Path(directory).absolute()
        super().__init__(
            global_rank,
            global_world_size,
            store=StoreAccess(f"directory {path}", lambda: FileClient(path)),
            barrier_prefix=barrier_prefix,
            generation=generation,
            timeout_secs=timeout_secs,
            warn_after_secs=warn_after_secs,
            heartbeat_secs=0.0,  # ranks of one host find a dead one by its pid
            progress_extends_deadline=False,
            job_id=job_id,
        )
