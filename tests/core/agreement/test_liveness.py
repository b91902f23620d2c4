"""What a connection to a rank's liveness port proves, and what is said of a rank then."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import msgspec
import pytest

from barrier_core.agreement.failure_detector import FailureDetector, Process, judge, neighbours
from barrier_core.agreement.keys import Keys
from barrier_core.agreement.links import Seen
from barrier_core.agreement.liveness import LivenessPort
from barrier_core.agreement.membership import Member
from barrier_core.backends.local import STORE, LocalClient
from barrier_core.launcher import RankInfo
from barrier_core.verdict import RankState
from tests.support.ports import free_port

_HOST = "127.0.0.1"
_SILENT = "no heartbeat for 12 s"


@pytest.mark.parametrize(
    ("process", "has_left", "quiet", "seen", "state", "detail"),
    [
        ("gone", False, None, "not asked", "dead", "its process is gone"),
        ("gone", False, _SILENT, "not asked", "dead", "its process is gone"),
        ("stopped", False, _SILENT, "not asked", "alive", "stopped by a signal"),
        ("runs", False, None, "not asked", "alive", None),
        ("runs", False, _SILENT, "not asked", "alive", f"{_SILENT}: its Python does not run"),
        ("runs", True, None, "not asked", "left", "has closed its barrier"),
        (None, True, None, "not asked", "left", "has closed its barrier"),
        (None, False, _SILENT, "left", "left", "has closed its barrier"),
        (None, False, None, "closed", "dead", "its process is gone"),
        (None, False, _SILENT, "closed", "dead", "its process is gone"),
        (None, False, _SILENT, "open", "alive", f"{_SILENT}: stopped or stuck"),
        (None, False, None, "open", "alive", None),
        (None, False, None, "not asked", "unknown", None),
        (None, False, _SILENT, "not asked", "unknown", _SILENT),
        (None, False, _SILENT, "no answer", "unknown", f"{_SILENT}, its host does not answer"),
        (None, False, _SILENT, "unreachable", "unknown", f"{_SILENT}, its host cannot be reached"),
        (
            *(None, False, _SILENT, "refused", "unknown"),
            f"{_SILENT}, its port refuses connections, as a firewall may for a process that lives",
        ),
        (
            *(None, False, _SILENT, "accepted", "unknown"),
            f"{_SILENT}, its port accepts connections, but nobody has said who is there",
        ),
        (
            *(None, False, _SILENT, "forwarded", "unknown"),
            f"{_SILENT}, its port is behind a forwarder, which may answer for it",
        ),
        (None, False, _SILENT, "ended", "unknown", _SILENT),
    ],
)
def test_a_rank_is_dead_only_if_a_kernel_has_said_so(
    process: Process | None,
    has_left: bool,
    quiet: str | None,
    seen: Seen,
    state: RankState,
    detail: str | None,
) -> None:
    assert judge(process, has_left, quiet, False, seen) == (state, detail)


def test_a_rank_whose_heartbeats_come_is_alive_whatever_its_port_says() -> None:
    assert judge(None, False, None, True, "no answer") == ("alive", None)
    assert judge(None, False, None, True, "refused") == ("alive", None)


@pytest.mark.parametrize(("ranks", "on_a_host"), [(2, 1), (4, 2), (16, 8), (24, 6), (1000, 8)])
def test_each_rank_has_a_neighbour_on_another_host(ranks: int, on_a_host: int) -> None:
    in_a_row = [rank // on_a_host for rank in range(ranks)]
    in_turn = [rank % (ranks // on_a_host) for rank in range(ranks)]
    for host_of in (in_a_row, in_turn):
        for rank in range(ranks):
            near = neighbours(rank, ranks)
            assert rank not in near
            assert any(host_of[other] != host_of[rank] for other in near)


@pytest.fixture
def rank() -> Iterator[Callable[[], LivenessPort]]:
    """Open the liveness ports of ranks."""
    with ExitStack() as stack:

        def open_port() -> LivenessPort:
            port = LivenessPort(_HOST)
            stack.callback(port.close)
            return port

        yield open_port


def until(seen: Seen, watcher: LivenessPort, token: str, *others: LivenessPort) -> None:
    """Let the ranks' watchers run until one of them sees something of a rank."""
    while watcher.seen(token) != seen:
        for port in (watcher, *others):
            port.wait(0.01)


def test_both_ends_hear_at_once_that_the_other_process_is_gone(
    rank: Callable[[], LivenessPort],
) -> None:
    for ends in (0, 1):
        pair = rank(), rank()
        pair[0].watch(pair[1].endpoint, pair[1].token)
        until("open", pair[0], pair[1].token, pair[1])
        until("open", pair[1], pair[0].token, pair[0])

        pair[ends].close()  # what the kernel does for a process that is killed

        until("closed", pair[1 - ends], pair[ends].token)
        assert pair[1 - ends].deaths == 1


def test_a_rank_that_leaves_says_so_and_is_not_taken_for_dead(
    rank: Callable[[], LivenessPort],
) -> None:
    one, other = rank(), rank()
    one.watch(other.endpoint, other.token)
    until("open", one, other.token, other)
    until("open", other, one.token, one)

    other.say_farewell()
    other.close()

    until("left", one, other.token)
    assert one.deaths == 0


def test_a_rank_that_has_only_asked_may_close_its_connection(
    rank: Callable[[], LivenessPort],
) -> None:
    one, other = rank(), rank()
    one.ask(other.endpoint, other.token)
    until("open", one, other.token, other)

    one.forget_asked()

    assert one.seen(other.token) == "not asked"
    one.watch(other.endpoint, other.token)  # when this one is greeted, the other end is gone
    until("open", one, other.token, other)
    until("open", other, one.token, one)
    assert other.deaths == 0


def test_a_connection_that_is_reset_proves_nothing(rank: Callable[[], LivenessPort]) -> None:
    one = rank()
    with socket.create_server((_HOST, 0)) as peer:
        at = peer.getsockname()[:2]
        one.watch(at, "its-token")
        connection, (host, port) = peer.accept()
        connection.sendall(f"its-token {host} {port}\n".encode())
        until("open", one, "its-token")

        # As a firewall does that rejects: RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

        until("not asked", one, "its-token")
    one.watch(at, "its-token")
    until("refused", one, "its-token")
    assert one.deaths == 0


def test_who_listens_at_the_port_after_the_rank_is_not_taken_for_it(
    rank: Callable[[], LivenessPort],
) -> None:
    one, stranger = rank(), rank()
    one.watch(stranger.endpoint, "token-before")
    until("accepted", one, "token-before", stranger)
    until("accepted", one, "token-before", stranger)

    stranger.close()

    until("not asked", one, "token-before")
    assert one.deaths == 0


@contextmanager
def forwarder(to: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Forward one connection, as a proxy does; it ends both when it is told to end."""
    with socket.create_server((_HOST, 0)) as server, ExitStack() as connections:
        stop = threading.Event()

        def forward() -> None:
            near = connections.enter_context(server.accept()[0])
            far = connections.enter_context(socket.create_connection(to))
            while not stop.is_set():
                for ready in select.select([near, far], [], [], 0.01)[0]:
                    data = ready.recv(4096)
                    if not data:
                        return
                    (far if ready is near else near).sendall(data)

        thread = threading.Thread(target=forward)
        thread.start()
        try:
            yield server.getsockname()[:2]
        finally:
            stop.set()
            thread.join()


def test_the_end_of_a_connection_through_a_forwarder_proves_nothing(
    rank: Callable[[], LivenessPort],
) -> None:
    one, other = rank(), rank()
    with forwarder(other.endpoint) as at:
        one.watch(at, other.token)
        until("forwarded", one, other.token, other)
        until("forwarded", other, one.token, one)

    until("not asked", one, other.token)
    until("not asked", other, one.token)
    assert one.deaths == other.deaths == 0


def test_a_stuck_rank_keeps_accepting_however_often_it_is_asked(
    rank: Callable[[], LivenessPort],
) -> None:
    stuck, ranks = rank(), [rank() for _ in range(4)]
    for _ in range(300):
        for each in ranks:
            each.ask(stuck.endpoint, stuck.token)
            each.await_answers(30)
            assert each.seen(stuck.token) == "accepted"

    # Once it runs again, it greets those who still ask: each with one connection.
    for each in ranks:
        until("open", each, stuck.token, stuck)
    assert len(stuck._links) == len(ranks)


def test_each_error_is_what_it_is(rank: Callable[[], LivenessPort]) -> None:
    one = rank()
    one.ask((_HOST, free_port()), "refused")
    one.await_answers(30)
    assert one.seen("refused") == "refused"
    # No route leads to a multicast address by TCP: an error at once, and not an answer.
    one.ask(("224.0.0.1", 1), "unreachable")
    one.await_answers(30)
    assert one.seen("unreachable") == "unreachable"
    with closing(LivenessPort(_HOST)) as gone, suppress(OSError):
        one.ask(("::1", gone.endpoint[1]), "of another family")
        one.await_answers(30)
        assert one.seen("of another family") in ("refused", "unreachable", "not asked")


def test_a_rank_that_another_process_has_taken_over_is_not_dead() -> None:
    keys, client = Keys("taken-over", "0.0"), LocalClient(STORE)
    me = Member.myself(RankInfo(0, 2), None)
    gone = msgspec.structs.replace(me, rank=1, pid=2**22 + 1)
    detector = FailureDetector(keys, me, 0.0, 2, None, None)
    client.write(keys.member(1), msgspec.json.encode(gone))
    assert [status.state for status in detector.examine(client, [1])] == ["dead"]

    client.write(keys.member(1), msgspec.json.encode(msgspec.structs.replace(me, rank=1)))

    assert [status.state for status in detector.examine(client, [1])] == ["alive"]
    client.remove([keys.member(1)])
