"""A client of torch's TCPStore that keeps deadlines, can be woken, and does not need torch.

Why not torch's own client: its blocked calls cannot be interrupted (Ctrl-C is not seen, another
thread can only wait), after a timeout it reads from the server without any limit, and it needs a
torch import of two seconds and 200 MB on ranks that otherwise use none. This one is a plain socket:
it waits in ``poll`` for the server's answer and for `wake`, whichever comes first. (Only a round's
first quarter second, in which most are over, is spent in a plain ``recv``.)

The protocol is torch's, of which ``TCPStoreBackend.hpp`` in every torch wheel names the request
types (torch 2.4 to 2.13 number them alike). A request is its type in one byte, then its fields: a
number has 8 bytes, a text its length and its bytes; byte order is the host's. Keys begin with
``/``. All answers come in the order of the requests, except that of BARRIER, which comes when the
release signal is sent.
"""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from barrier_core.plugin_api import (
    ANSWER_SECS,
    BRIEF_SECS,
    ROUND_DIGITS,
    Series,
    StoreClient,
    StoreLostError,
    StoreNotTriedError,
    exhausted,
)
from barrier_tcp_store.connecting import StillWaiting, connect, go_on, is_ready

_LONGEST_POLL_MS = 2**31 - 1

_VALIDATE = b"\x00"
_SET = b"\x01"
_COMPARE_SET = b"\x02"
_DELETE_KEY = b"\x08"
_APPEND = b"\x09"
_CANCEL_WAIT = b"\x0c"
_PING = b"\x0d"
_BARRIER = b"\x12"
_MAGIC = struct.pack("=I", 0x3C85F7CE)
_RELEASED, _CANCELLED = b"\x00", b"\x01"

# Asking for a missing key crashes the connection on torch's older server. Comparing with a value
# that no key has does not, and answers the value that stands, or this one where there is none.
_MISSING = b"\x00no such key\x00"

_CLOSED = "it closed the connection"

_LENGTH = struct.Struct("=Q")
_pack = _LENGTH.pack
_ROUND = b"%%0%dd" % ROUND_DIGITS


def _text(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


class _ClosedError(StoreLostError):
    """The server has closed the connection."""


class TCPStoreClient(StoreClient):
    """One connection to a TCPStore.

    Args:
        host: Name or address of the server's host.
        port: The server's port.
        patience_secs: How long to go on trying, in seconds, until a TCPStore answers there.
        namespace: Put before every key; ends in ``/`` if not empty.

        still_waiting: Is told while it waits; see `StillWaiting`.

    Raises:
        StoreLostError: No TCPStore answers at the address.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        patience_secs: float = ANSWER_SECS,
        namespace: str = "",
        still_waiting: StillWaiting = go_on,
    ) -> None:
        self.answer_by = time.monotonic() + patience_secs
        self.answer_secs = patience_secs
        self._root = f"/{namespace}".encode()
        self._abandoned = -1
        """Descriptor of a connection that is out of step, if any: only `abandon` uses it."""
        self._counted_in = False
        """Whether a BARRIER has been sent whose answer has not been read."""
        self._series: Series | None = None
        """The last series of rounds, most often the next round's, too."""
        self._around_number: list[bytes] = []
        """The request of its arrivals; between the parts comes the round's number."""
        self.still_waiting = still_waiting
        self._socket = connect(host, port, patience_secs, still_waiting)
        # For the `recv` of `wait_briefly`. Requests go out by `os.write`, which would otherwise
        # ask first, each time, whether there is room for them.
        self._socket.settimeout(BRIEF_SECS)
        super().__init__()  # now that all is there that `close_in_child` needs
        try:
            self._wakes = self.wake_descriptor()
        except OSError as error:
            self._socket.close()
            raise StoreNotTriedError(exhausted(error) or str(error)) from None
        self._answers = select.poll()
        self._answers.register(self._socket, select.POLLIN)
        self._answers_and_wakes = select.poll()
        self._answers_and_wakes.register(self._socket, select.POLLIN)
        self._answers_and_wakes.register(self._wakes, select.POLLIN)
        try:
            self._shake_hands()
        except StoreLostError as error:
            self.close()
            raise StoreLostError(f"what answers at {host}:{port} is no TCPStore: {error}") from None
        self.answer_secs, self.answer_by = ANSWER_SECS, math.inf
        self.can_count = True
        """Whether the server knows BARRIER (torch 2.13 does); without it, waiting is polling."""

    def append(self, key: str, record: bytes) -> None:
        """See `StoreClient`; one-way."""
        self._send(_APPEND + self._key(key) + _text(record))

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `StoreClient`; all keys in one round trip."""
        expect, missing = _text(_MISSING), _text(b"")
        with self._asking():
            self._send(b"".join(_COMPARE_SET + self._key(key) + expect + missing for key in keys))
            values = [self._receive_text() for _ in keys]
        return [None if value == _MISSING else value for value in values]

    def create(self, key: str, value: bytes) -> bytes:
        """See `StoreClient`; one round trip."""
        with self._asking():
            self._send(_COMPARE_SET + self._key(key) + _text(b"") + _text(value))
            return self._receive_text()

    def write(self, key: str, value: bytes) -> None:
        """See `StoreClient`; one-way."""
        self._send(_SET + self._key(key) + _text(value))

    def remove(self, keys: Iterable[str]) -> None:
        """See `StoreClient`; one round trip."""
        paths = [self._root + key.encode() for key in keys]
        # In one go: rank 0's own round cannot go on while its watcher works this out.
        request = b"".join(
            [part for path in paths for part in (_DELETE_KEY, _pack(len(path)), path)]
        )
        with self._asking():
            self._send(request)
            if len(paths) > 1:
                self._await(_LENGTH.size * len(paths))
            self._receive(_LENGTH.size * len(paths))

    def arrive(self, series: Series, number: int) -> None:
        """See `StoreClient`; both requests in one packet."""
        if not self.can_count:
            return super().arrive(series, number)
        # Every round comes by here, and through `wait_briefly`: only the number is put in.
        if series is not self._series:
            self._around_number = self._arrivals(series)
            self._series = series
        request = (_ROUND % number).join(self._around_number)
        # Before the request is out: if a signal handler raises in between, `withdraw` must ask.
        self._counted_in = True
        return self._send(request)

    def _arrivals(self, series: Series) -> list[bytes]:
        """Return the two requests of an arrival in the parts around the round's number."""
        before, after = self._root + series.before.encode(), series.after.encode()
        log_size = len(before) + ROUND_DIGITS
        return [
            _APPEND + _pack(log_size) + before,
            _text(series.record) + _BARRIER + _pack(log_size + len(after)) + before,
            after + _pack(series.world_size),
        ]

    def wait_briefly(self) -> bool:
        """See `StoreClient`; one call, ended by the release signal, the time or an exception alone.

        Why the time limit is Python's and not the kernel's (``SO_RCVTIMEO``), which would save
        another microsecond: that one starts anew after every signal, so a program with a timer of
        its own might never get to look after its round.
        """
        if not self.can_count:
            return super().wait_briefly()
        try:
            answer = self._socket.recv(1)
        except TimeoutError:
            return False
        except OSError as error:
            raise self._lost(str(error), _ClosedError) from None
        if not answer:
            raise self._lost(_CLOSED, _ClosedError)
        self._counted_in = False
        return True

    def wait(self, timeout_secs: float) -> bool:
        """See `StoreClient`; costs nothing while it lasts."""
        if not self.can_count:
            return super().wait(timeout_secs)
        # Rounded up: poll counts in milliseconds, and a wait of 0 would spin. It goes on after a
        # signal, and returns early for nothing else.
        ready = self._answers_and_wakes.poll(min(timeout_secs * 1000 + 1, _LONGEST_POLL_MS))
        if not ready:
            return False
        if ready[0][0] == self._wakes and len(ready) == 1:
            self.take_back_wakes()
            return False
        self._receive(1)
        self._counted_in = False
        return True

    def withdraw(self) -> bool:
        """See `StoreClient`; one round trip.

        Why this is a fence: the server handles one connection's requests in order, so its answer to
        CANCEL_WAIT says that it has handled the arrival before it. A release signal that came first
        shows as one more byte before that answer.
        """
        if not self._counted_in:
            return False
        with self._asking():
            self._send(_CANCEL_WAIT)
            released = self._receive(1) == _RELEASED
            if released and self._receive(1) != _CANCELLED:
                raise self._lost("it answered CANCEL_WAIT in a way that is not known")
        self._counted_in = False
        return released

    def abandon(self, series: Series, number: int, record: bytes) -> None:
        """See `StoreClient`; one-way: the answer to the removal is never read."""
        keys = series.keys(number)
        removal = _DELETE_KEY + self._key(keys.release)
        with suppress(OSError):  # there is no connection any more, or it takes nothing
            os.write(self._abandoned, removal + _APPEND + self._key(keys.log) + _text(record))

    def close(self) -> None:
        """See `StoreClient`."""
        self._socket.close()
        if self._abandoned >= 0:
            os.close(self._abandoned)
            self._abandoned = -1
        super().close()

    def address(self) -> str | None:
        """See `StoreClient`."""
        address: str = self._socket.getsockname()[0]
        return address

    def server_address(self) -> str:
        """Return the address of the server's host, in numbers."""
        try:
            return socket.getnameinfo(self._socket.getpeername(), socket.NI_NUMERICHOST)[0]
        except OSError as error:
            raise self._lost(str(error), _ClosedError) from None

    def probe_counting(self, scratch: str) -> bool:
        """Ask whether the server knows BARRIER; one that does not closes the connection.

        Args:
            scratch: A key that nothing else uses.

        Raises:
            StoreLostError: It does not answer, which says nothing. All ranks must know the same:
                the count never completes if one of them only polls.
        """
        try:
            self._send(_BARRIER + self._key(scratch) + _LENGTH.pack(1))
            self._receive(1)
            self.remove([scratch])
        except _ClosedError:
            return False
        return True

    def _shake_hands(self) -> None:
        nonce = os.urandom(4)
        self._send(_VALIDATE + _MAGIC + _PING + nonce)
        if self._receive(len(nonce)) != nonce:
            raise self._lost("it does not answer PING")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Close the connection when Ctrl-C comes in the middle of a question, or before its answer.

        What is left of it would be taken for a part of the next one.
        """
        try:
            yield
        except BaseException:
            self._give_up_connection()
            raise

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Close the connection for good when a request is not sent to its end."""
        try:
            yield
        except BaseException:
            self._give_up_connection()
            if self._abandoned >= 0:
                os.close(self._abandoned)
                self._abandoned = -1
            raise

    def _key(self, key: str) -> bytes:
        return _text(self._root + key.encode())

    def _send(self, request: bytes) -> None:
        """Hand a request to the kernel; waits only where its buffer is full."""
        try:
            sent = os.write(self._socket.fileno(), request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._lost(str(error), _ClosedError) from None
        if sent < len(request):
            self._send_rest(memoryview(request)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        deadline = self.answer_deadline()
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        with self._sending():
            while rest:
                if not is_ready(writable, deadline, self.still_waiting):
                    raise self._lost(f"it took no request for {self.answer_secs:g} s")
                try:
                    rest = rest[os.write(self._socket.fileno(), rest) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise self._lost(str(error), _ClosedError) from None

    def _await(self, size: int) -> None:
        """Sleep until so many bytes are there; to be woken for each answer would cost more."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        try:
            asked, deadline = time.monotonic(), self.answer_deadline()
            if not is_ready(self._answers, deadline, self.still_waiting):
                raise self._lost(f"no answer for {max(deadline - asked, 0.0):.3g} s")
        finally:
            if self._socket.fileno() >= 0:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _receive(self, size: int) -> bytes:
        asked, deadline = time.monotonic(), self.answer_deadline()
        chunks: list[bytes] = []
        while size:
            if not is_ready(self._answers, deadline, self.still_waiting):
                raise self._lost(f"no answer for {max(deadline - asked, 0.0):.3g} s")
            try:
                chunk = self._socket.recv(size)
            except OSError as error:
                raise self._lost(str(error), _ClosedError) from None
            if not chunk:
                raise self._lost(_CLOSED, _ClosedError)
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def _receive_text(self) -> bytes:
        (size,) = _LENGTH.unpack(self._receive(_LENGTH.size))
        if size > self.longest_value:
            raise self._lost(f"it answers {size} bytes, where no rank has written so much")
        return self._receive(size)

    def _lost(self, why: str, kind: type[StoreLostError] = StoreLostError) -> StoreLostError:
        # The stream is out of step from here on: an answer may still come, to nobody's question.
        self._give_up_connection()
        return kind(why)

    def _give_up_connection(self) -> None:
        """Close it for everything but `abandon`."""
        if self._socket.fileno() >= 0:
            with suppress(OSError):
                self._abandoned = os.dup(self._socket.fileno())
            self._socket.close()
