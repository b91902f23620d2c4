"""Records that only the ranks of a job can write, as only they know its secret.

Each line of what a rank writes ends in a tab and an authentication code (HMAC-SHA256, cut to 128
bits) over the key and the line. A line without the right one is left out when it is read. So what a
stranger writes counts for nothing, and neither does a rank's own record at another key.

The release signal has no such code. Whoever gets it reads the round's log, which must say that all
have arrived. Why that log is there: rank 0 removes it once it has passed the next round, which it
cannot before this rank has come to that.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Sequence
from typing import Any

from barrier_core.agreement.foreign import ForeignRecordError
from barrier_core.agreement.keys import Series
from barrier_core.agreement.round_log import passed
from barrier_core.agreement.store import StoreClient
from barrier_core.errors import BarrierConfigError, as_text

SECRET_VARIABLE = "BARRIER_SECRET"
SECRET_FILE_VARIABLE = "BARRIER_SECRET_FILE"
_SHORTEST_SECRET = 16
_LONGEST_SECRET_FILE = 4096
_CODE_BYTES = 16


def job_secret(given: str | None, verify: bool) -> str | None:
    """Return the secret that a job's ranks share, as given or from the environment; None: no one.

    Raises:
        BarrierConfigError: It cannot be had, is too short, or ``verify`` is set without one.
    """
    if given is None:
        given = os.environ.get(SECRET_VARIABLE)
        path = os.environ.get(SECRET_FILE_VARIABLE)
        if given is None and path is not None:
            given = _read_secret(path)
    if given is None:
        if verify:
            raise BarrierConfigError(
                f"verify=True needs a secret: give secret, {SECRET_VARIABLE} or "
                f"{SECRET_FILE_VARIABLE}, the same on all ranks"
            )
        return None
    if not isinstance(given, str) or len(given) < _SHORTEST_SECRET:
        raise BarrierConfigError(
            f"secret=*** must be a text of at least {_SHORTEST_SECRET} characters: "
            "python3 -c 'import secrets; print(secrets.token_hex())' makes one"
        )
    return given


def _read_secret(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_LONGEST_SECRET_FILE).strip()
    except (OSError, ValueError) as error:
        raise BarrierConfigError(
            f"{SECRET_FILE_VARIABLE}={path!r} cannot be read: {as_text(error)}"
        ) from error


def derive(secret: str, purpose: str, job_id: str) -> bytes:
    """Return a key of 32 bytes that nobody can work out who does not know the secret."""
    return hmac.digest(
        secret.encode(errors="surrogatepass"), f"{purpose}\0{job_id}".encode(), "sha256"
    )


class _Forwarded:
    """An attribute of the client inside, as one of the client around it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, client: SealingClient, owner: type) -> Any:
        return getattr(client.inner, self._name)

    def __set__(self, client: SealingClient, value: Any) -> None:
        setattr(client.inner, self._name, value)


class SealingClient(StoreClient):
    """A client whose records only those can write, and read, who know the job's secret.

    Args:
        inner: The client of the store.
        key: What the codes are made with (see `derive`).
    """

    answer_secs: Any = _Forwarded()
    answer_by: Any = _Forwarded()
    longest_value: Any = _Forwarded()

    def __init__(self, inner: StoreClient, key: bytes) -> None:
        # Not the base's: what that sets up, the client inside has.
        self.inner = inner
        self._key = key
        self._arrived_at = ("", 0)
        self._incarnation: tuple[str, bytes] | None = None

    @property
    def incarnation(self) -> tuple[str, bytes] | None:
        """See `StoreClient`; the client inside compares what stands in the store."""
        return self._incarnation

    @incarnation.setter
    def incarnation(self, value: tuple[str, bytes] | None) -> None:
        self._incarnation = value
        if value is not None:
            key, record = value
            value = (key, self._seal(key, record))
        self.inner.incarnation = value

    def check_incarnation(self) -> None:
        """See `StoreClient`."""
        self.inner.check_incarnation()

    def append(self, key: str, record: bytes) -> None:
        """See `StoreClient`."""
        self.inner.append(key, self._seal(key, record))

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `StoreClient`; a value in which no line is a rank's is read as an empty one."""
        values = self.inner.read(keys)
        return [
            None if value is None else self._open(key, value)
            for key, value in zip(keys, values, strict=True)
        ]

    def create(self, key: str, value: bytes) -> bytes:
        """See `StoreClient`."""
        return self._open(key, self.inner.create(key, self._seal(key, value)))

    def write(self, key: str, value: bytes) -> None:
        """See `StoreClient`."""
        self.inner.write(key, self._seal(key, value))

    def remove(self, keys: Iterable[str]) -> None:
        """See `StoreClient`."""
        self.inner.remove(keys)

    def close(self) -> None:
        """See `StoreClient`."""
        self.inner.close()

    def close_in_child(self) -> None:
        """See `StoreClient`."""
        self.inner.close_in_child()

    def address(self) -> str | None:
        """See `StoreClient`."""
        return self.inner.address()

    def arrive(self, series: Series, number: int) -> None:
        """See `StoreClient`; the record is another one in each round."""
        log = series.keys(number).log
        self._arrived_at = (log, series.world_size)
        record = self._seal(log, series.record)
        self.inner.arrive(
            Series(series.tag, series.before, series.after, record, series.world_size), number
        )

    def wait(self, timeout_secs: float) -> bool:
        """See `StoreClient`."""
        return self.inner.wait(timeout_secs) and self._is_true()

    def wait_briefly(self) -> bool:
        """See `StoreClient`."""
        return self.inner.wait_briefly() and self._is_true()

    def withdraw(self) -> bool:
        """See `StoreClient`."""
        return self.inner.withdraw() and self._is_true()

    def abandon(self, series: Series, number: int, record: bytes) -> None:
        """See `StoreClient`."""
        self.inner.abandon(series, number, self._seal(series.keys(number).log, record))

    def wake(self) -> None:
        """See `StoreClient`."""
        self.inner.wake()

    def _is_true(self) -> bool:
        """Return True where the log says as well that all have arrived.

        Raises:
            ForeignRecordError: It does not.
        """
        log, world_size = self._arrived_at
        if not passed(self.read([log])[0] or b"", world_size):
            raise ForeignRecordError(
                "a release signal came, but the round's log does not say that all ranks have "
                "arrived: somebody who is no rank of this job writes to it"
            )
        return True

    def _seal(self, key: str, value: bytes) -> bytes:
        lines = value.split(b"\n")
        return b"\n".join(line + b"\t" + self._code(key, line) if line else line for line in lines)

    def _open(self, key: str, value: bytes) -> bytes:
        opened = []
        for line in value.split(b"\n"):
            body, _, code = line.rpartition(b"\t")
            if hmac.compare_digest(code, self._code(key, body)):
                opened.append(body)
        # Every line of a log ends in a newline; a single value has none.
        return b"\n".join(opened) + (b"\n" if opened and value.endswith(b"\n") else b"")

    def _code(self, key: str, line: bytes) -> bytes:
        text = b"%s\0%s" % (key.encode(), line)
        return hmac.digest(self._key, text, "sha256")[:_CODE_BYTES].hex().encode()
