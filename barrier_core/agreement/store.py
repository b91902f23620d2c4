"""What the agreement engine needs of a key-value store: a client, and how to get one.

A backend writes a `StoreClient` with `append`, `read`, `create`, `write`, `remove` and `close`, and
hands a `StoreAccess` to `StoreBarrier`. The three methods that wait (`arrive`, `wait`, `withdraw`)
then work by polling. A store that can block, or count, overrides them to release a round in one
round trip. Plugins import all names from `barrier_core.plugin_api`.
"""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from barrier_core.agreement.foreign import StoreLostError, longest_value
from barrier_core.agreement.keys import Series
from barrier_core.agreement.round_log import passed
from barrier_core.agreement.wakeup import PollableWakeUp, WakeUp
from barrier_core.this_process import after_fork

BRIEF_SECS = 0.25
"""How long `StoreClient.wait_briefly` waits."""
ANSWER_SECS = 6.0
"""How long a store may take to answer in a round before it counts as lost.

Longer than the 5 s for which one lost DNS packet stops torch's server: for its own log, it looks up
the name of every client that connects, in the one thread that serves all of them.
"""
FORGOTTEN = "it has forgotten the barrier: it was emptied, or is another one"
_FIRST_POLL_SECS = 0.001
_LAST_POLL_SECS = 0.1


class StoreClient(abc.ABC):
    """One rank's connection to the store; used by one thread at a time, but for `wake`.

    A subclass calls ``super().__init__()``, once it has all that `close_in_child` needs.

    Keys are short text, values short bytes; both are the engine's own business. ``keys`` is never
    empty. Operations of one client take effect in the order in which they were called. Each raises
    `StoreLostError` when the store does not answer within `answer_secs`, or by `answer_by`:
    `answer_deadline` returns which comes first.

    *Interruption.* A signal handler may raise (Ctrl-C does) in the midst of any call, and the next
    one may follow. An answer that was left unread must never be taken for that to the next
    question: drop it before asking again, or close the connection and raise `StoreLostError` from
    then on.

    *Failure.* Where a request or its answer is lost in a network, or a call is interrupted, nobody
    can know whether the store has done what was asked. Two things must hold nevertheless:

    * A record may stand in a log twice, and the engine counts it once. So a client may send
      `append` again, as `read`, `write` and `remove`, and `create` with a value that no other has.
      Part of a record must never stand there.
    * A rank may be counted at a release signal once at most. A client that does not know whether
      it has been counted raises `StoreLostError`; it does not count again.
    """

    answer_secs: float = ANSWER_SECS
    """How long the store may take to answer, in seconds; the engine sets it. While a rank joins,
    the backend's `StoreAccess.open` may have set it to more."""
    incarnation: tuple[str, bytes] | None = None
    """A key and the value that it has for as long as the store forgets nothing; the engine sets it
    once the rank has joined. A client that connects anew by itself calls `check_incarnation` before
    anything else, or what it is asked next would be answered by a store that knows of nothing."""
    answer_by: float = math.inf
    """When the last of several answers must be there, in monotonic seconds; the engine sets it."""
    longest_value: int = longest_value(1)
    """Bytes that no value of the barrier exceeds; the engine sets it. A longer one is a stranger's:
    a client that is told how long an answer is raises `StoreLostError` before it reads that."""

    def __init__(self) -> None:
        self._wake_up: WakeUp = WakeUp()
        self._waits_for = ("", 0)
        after_fork(self.close_in_child)

    def answer_deadline(self) -> float:
        """Return until when to wait for an answer that is asked for now, in monotonic seconds."""
        return min(time.monotonic() + self.answer_secs, self.answer_by)

    @abc.abstractmethod
    def append(self, key: str, record: bytes) -> None:
        """Add ``record`` at the end of a value, atomically; a missing key starts empty."""

    @abc.abstractmethod
    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of ``keys``, in their order; None where a key is missing."""

    @abc.abstractmethod
    def create(self, key: str, value: bytes) -> bytes:
        """Set ``key`` if it is missing, atomically; return the value that now stands."""

    @abc.abstractmethod
    def write(self, key: str, value: bytes) -> None:
        """Set ``key``, whatever it was."""

    @abc.abstractmethod
    def remove(self, keys: Iterable[str]) -> None:
        """Remove ``keys``; missing ones are no error."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection. Never raises; a second time does nothing.

        A client that has a `wake_descriptor` calls ``super().close()``.
        """
        self._wake_up.close()

    def close_in_child(self) -> None:
        """In a forked child: close its copies of descriptors, and say nothing to the store.

        The connection is the parent's: it must end with the parent, whatever the child does. By
        default, this is `close`; where that tells the store something, or takes a lock (as a
        buffered file does), which another thread may have held at the fork, override this.
        """
        self.close()

    def renew(self, keys: Sequence[str]) -> None:  # noqa: B027 - most stores drop nothing
        """Keep keys for longer, in a store that drops those that are old; by default, nothing.

        For stores with a time to live, or leases, so that a job that is killed leaves nothing
        behind. Called at every heartbeat with all that this rank needs, the keys of a round that it
        waits in included; one that is missing is no error. So a key may be dropped that was
        neither written nor renewed for much longer than ``heartbeat_secs``, and no sooner: a key
        that several ranks need must not go with the rank that has created it. Without heartbeats
        nothing is renewed, and nothing may be dropped. No operation is told how long a rank will
        wait, as a long wait is renewed.
        """

    def address(self) -> str | None:
        """Return this host's address as other ranks reach it; None where that is not known.

        With heartbeats (``heartbeat_secs`` is not 0) and an address, a rank opens its liveness port
        there: from a connection to it, ranks of other machines hear that the rank has died. Without
        either, only ranks of the same machine do, and others find it missing when their time is up.
        The address of this end of the client's own connection is most often the right one.
        """
        return None

    def arrive(self, series: Series, number: int) -> None:
        """Append the rank's record to a round's log, then count it in; do not wait.

        The release signal comes when ``series.world_size`` ranks have been counted in since its key
        was last removed. `Series.keys` tells the keys of both. Append before counting, in one
        request or two that the store handles in this order. Take the record as it is, and count one
        for each call, whatever it holds: it may come to stand for several ranks.
        """
        log = series.keys(number).log
        self._waits_for = (log, series.world_size)
        self.append(log, series.record)

    def wait(self, timeout_secs: float) -> bool:
        """Wait for the release signal of the last `arrive`: True when it has come.

        False after ``timeout_secs``, at most a day, or a `wake`; the rank is still counted in.
        """
        log, world_size = self._waits_for
        deadline = time.monotonic() + timeout_secs
        pause = _FIRST_POLL_SECS
        while True:
            if passed(self._read_log(log), world_size):
                return True
            left = deadline - time.monotonic()
            if self._wake_up.wait(min(pause, max(left, 0))) or left <= 0:
                return False
            pause = min(pause * 2, _LAST_POLL_SECS)

    def _read_log(self, log: str) -> bytes:
        """Read a round's log, of a store that has forgotten nothing."""
        if self.incarnation is None:
            return self.read([log])[0] or b""
        key, expected = self.incarnation
        value, found = self.read([log, key])
        if found != expected:
            raise StoreLostError(FORGOTTEN)
        return value or b""

    def check_incarnation(self) -> None:
        """Raise unless the store is the one that the rank has joined, with all that it knew.

        Raises:
            StoreLostError: It has been emptied, or is another one.
        """
        if self.incarnation is not None:
            key, expected = self.incarnation
            if self.read([key]) != [expected]:
                raise StoreLostError(FORGOTTEN)

    def wait_briefly(self) -> bool:
        """Wait as `wait` does, for `BRIEF_SECS`: how every round begins, and where most end.

        It need not notice a `wake`, which then ends the next wait.
        """
        return self.wait(BRIEF_SECS)

    def withdraw(self) -> bool:
        """Stop waiting. True when the release signal had come.

        When it returns, the store has processed the `arrive` of this client: nothing of it can take
        effect later. The protocol's safety rests on that. Where `arrive` was interrupted, it may
        have been sent, in part or not at all, so the same holds; False is then always right, as
        the log decides. A client that cannot tell raises `StoreLostError`.
        """
        return False

    def abandon(self, series: Series, number: int, record: bytes) -> None:
        """Send after the `arrive` that the rank has given up; wait for nothing, and do not raise.

        Called when the store has not answered: the arrival may still lie in a queue, and must not
        release a rank later. A client whose requests can wait in a queue has the store remove the
        round's release signal and then append ``record`` to its log, in this order and on the
        connection of the arrival. By default nothing is sent.
        """
        return

    def wake(self) -> None:
        """Make a `wait` under way, or else the next one, return.

        Any thread may call it, and a signal handler in the midst of any other call.
        """
        self._wake_up.call()

    def wake_descriptor(self) -> int:
        """Return a descriptor that can be read from after a `wake`, for a `wait` that polls.

        Call it in the constructor. A `wait` that was woken calls `take_back_wakes`.
        """
        self._wake_up = pollable = PollableWakeUp()
        return pollable.descriptor()

    def take_back_wakes(self) -> None:
        """Have the next `wait` end by nothing but a new `wake`."""
        self._wake_up.clear()


Connect = Callable[[], StoreClient]
"""Opens a connection. Raises `StoreLostError` when the store cannot be reached."""


class Joining(Protocol):
    """What a rank that is about to join tells the backend that opens the connection for it."""

    rank: int
    world_size: int

    def still_waiting(self, for_what: str) -> None:
        """Note what the rank waits for: the log says it once that has lasted for the soft limit.

        A backend that says nothing is said to wait for an answer of the store.

        Args:
            for_what: In words, such as ``no answer from the TCP store at 10.0.0.1:29511``.
        """

    def wait_for_host(self, client: StoreClient, deadline: float) -> None:
        """Return once rank 0 has come to this barrier, on the server of ``client``.

        For a store that rank 0 hosts: see `membership.wait_for_host`.

        Args:
            client: Connected to the server that answers at the address.
            deadline: When to give up, in monotonic seconds.

        Raises:
            BarrierSetupError: Rank 0 has not come before the deadline.
            StoreLostError: The server has ended, or does not answer.
        """


class StoreAccess:
    """How a rank gets at its store; what a backend hands to `StoreBarrier`.

    Args:
        name: What messages call the store, such as ``TCP store at 10.0.0.1:29511``.
        connect: Opens a connection. Called twice for each barrier, for the caller's thread and for
            the watcher's, on either thread; again where the watcher's connection was lost, and for
            each `StoreBarrier.gather`. It may take as long as an answer may.
    """

    hosts_store = False
    """Whether the store dies with this process, which then leaves last."""
    set_up_secs = math.inf
    """How long `open` waits for the store at most, in seconds; the log of a long wait says it."""

    is_closing = False
    """Whether the barrier is being closed: what `connect` has opened, or is about to open, then
    raises rather than wait for an answer. The engine sets it. Closing takes up to `ANSWER_SECS`
    longer where a backend does not heed it."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self.connect = connect

    def open(self, joining: Joining) -> StoreClient:
        """Return the caller's connection, on which the rank joins.

        A backend whose store has to be started, or waited for, does so here.

        Raises:
            StoreLostError: The store cannot be reached.
        """
        return self.connect()

    def close(self) -> None:
        """Release what `open` has started. Called once the barrier has left, or could not join."""
