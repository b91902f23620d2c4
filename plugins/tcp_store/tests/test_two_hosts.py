"""Four ranks on two hosts, with a network between them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.network import Network
from tests.support.ports import free_port

_HEARTBEAT_SECS = 0.5


class HostRank:
    """A rank on one of the hosts; ``parent`` is the command that runs it, if not the host."""

    def __init__(
        self, network: Network, host: str, rank: int, world_size: int, parent: Sequence[str] = ()
    ) -> None:
        environ = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        program = str(Path(__file__).with_name("host_rank.py"))
        self._process = subprocess.Popen(
            network.command(host, *parent, sys.executable, program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self, within_secs: float = 30.0) -> dict[str, Any]:
        """Return what became of the command."""
        assert self._process.stdout is not None
        # A rank that hangs is killed, so that reading its answer ends.
        watchdog = threading.Timer(within_secs, self.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        assert line, f"no answer within {within_secs} s"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Kill the rank: SIGKILL."""
        self._process.kill()

    def stop(self) -> None:
        """Freeze the rank: SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def interrupt(self) -> None:
        """Press Ctrl-C: SIGINT."""
        self._signal(signal.SIGINT)

    def _signal(self, number: int) -> None:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        os.kill(int(children.read_text().split()[0]), number)

    def end(self) -> None:
        """Kill the rank and wait for its end."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def job(network: Network) -> dict[str, Any]:
    """What all ranks are told of the barrier."""
    return {
        "master_address": network.addresses["left"],
        "tcpstore_port": free_port(),
        "heartbeat_secs": _HEARTBEAT_SECS,
        "timeout_secs": 20,
        "warn_after_secs": 0.5,
        "linger_secs": 5,
    }


@pytest.fixture
def ranks(network: Network, job: dict[str, Any]) -> Iterator[list[HostRank]]:
    """Ranks 0 and 1 on the left host, which has the store, and 2 and 3 on the right; joined."""
    with ExitStack() as stack:
        stack.callback(network.mend)
        ranks = [HostRank(network, "left" if rank < 2 else "right", rank, 4) for rank in range(4)]
        for rank in ranks:
            stack.callback(rank.end)
        for rank in ranks:
            rank.tell("create", **job)
        for rank in ranks:
            assert rank.answer()["error"] is None
        run(ranks, "rounds", count=3)
        yield ranks


def run(ranks: Sequence[HostRank], do: str, **arguments: Any) -> list[dict[str, Any]]:
    """Have the ranks do the same at once, without an error; return their answers."""
    for rank in ranks:
        rank.tell(do, **arguments)
    answers = [rank.answer() for rank in ranks]
    assert [answer["error"] for answer in answers] == [None] * len(ranks), answers
    return answers


def test_rounds_pass_between_hosts_and_the_hosting_rank_leaves_last(ranks: list[HostRank]) -> None:
    run(ranks, "rounds", count=300)
    ranks[0].tell("close")
    run(ranks[1:], "rounds", count=0)
    run(ranks[1:], "close")
    assert ranks[0].answer()["error"] is None


def test_a_late_rank_on_the_other_host_is_reported_alive_with_its_progress(
    ranks: list[HostRank],
) -> None:
    run(ranks[3:], "progress", text="shard 12/40")
    for rank in ranks[:3]:
        rank.tell("wait", timeout_secs=3, tag="save")
    answers = [rank.answer() for rank in ranks[:3]]
    run(ranks[3:], "rounds", count=0)
    ranks[3].tell("wait", tag="save")
    answers.append(ranks[3].answer())
    assert len({answer["message"] for answer in answers}) == 1
    assert "round 4 'save' timed out after" in answers[0]["message"]
    assert 'alive, last progress "shard 12/40"' in answers[0]["message"]


def test_a_rank_killed_on_the_other_host_breaks_the_round_long_before_the_timeout(
    ranks: list[HostRank],
) -> None:
    for rank in ranks[:3]:
        rank.tell("wait")
    ranks[3].kill()
    answers = [rank.answer() for rank in ranks[:3]]
    assert {answer["kind"] for answer in answers} == {"dead"}
    assert len({answer["message"] for answer in answers}) == 1
    assert "rank 3" in answers[0]["message"]
    assert "its process is gone" in answers[0]["message"]
    assert max(answer["secs"] for answer in answers) < 10


def test_a_rank_stopped_on_the_other_host_is_alive_but_silent(ranks: list[HostRank]) -> None:
    ranks[3].stop()
    for rank in ranks[:3]:
        rank.tell("wait", timeout_secs=4)
    answers = [rank.answer() for rank in ranks[:3]]
    assert {answer["kind"] for answer in answers} == {"timeout"}
    assert len({answer["message"] for answer in answers}) == 1
    assert "alive, no heartbeat for" in answers[0]["message"]


def test_an_exception_in_a_phase_on_the_other_host_reaches_everybody(ranks: list[HostRank]) -> None:
    for rank in ranks[:3]:
        rank.tell("wait", tag="save")
    run(ranks[3:], "fail in phase", reason="disk full on /ckpt")
    answers = [rank.answer() for rank in ranks[:3]]
    assert {answer["kind"] for answer in answers} == {"abort"}
    assert all("OSError: disk full on /ckpt" in answer["message"] for answer in answers)


def test_ranks_on_two_hosts_that_come_with_different_tags_are_told_so(
    ranks: list[HostRank],
) -> None:
    for number, rank in enumerate(ranks):
        rank.tell("wait", tag="save" if number < 2 else "load")
    answers = [rank.answer() for rank in ranks]
    assert {answer["kind"] for answer in answers} == {"mismatch"}
    assert all(
        "tags: 'load' on ranks 2-3, 'save' on ranks 0-1" in answer["message"] for answer in answers
    )


def test_ctrl_c_on_the_other_host_ends_its_wait_and_breaks_the_round(ranks: list[HostRank]) -> None:
    for rank in ranks[:2]:
        rank.tell("wait")
    ranks[3].tell("wait", say_so=True)  # rank 2 is busy elsewhere
    assert ranks[3].answer()["waits"]
    ranks[3].interrupt()
    assert ranks[3].answer()["error"] == "KeyboardInterrupt"
    answers = [rank.answer() for rank in ranks[:2]]
    assert {answer["kind"] for answer in answers} == {"abort"}


@pytest.mark.parametrize(
    ("world_size", "message"),
    [(4, "the rank is taken by pid 1 on right"), (5, "it was told a world size of 5")],
    ids=["rank taken", "another world size"],
)
def test_a_process_on_another_host_that_does_not_belong_is_refused_and_all_are_told(
    network: Network, job: dict[str, Any], ranks: list[HostRank], world_size: int, message: str
) -> None:
    stranger = HostRank(network, "left", 3, world_size)
    try:
        stranger.tell("create", **job)
        answer = stranger.answer()
    finally:
        stranger.end()
    assert answer["error"] == "RankConflictError"
    for rank in ranks[:3]:
        rank.tell("wait")
    answers = [rank.answer() for rank in ranks[:3]]
    assert {answer["kind"] for answer in answers} == {"conflict"}
    assert message in answers[0]["message"]


def test_a_frozen_store_ends_the_waits_of_both_hosts_soon_after_their_time_is_up(
    ranks: list[HostRank],
) -> None:
    for rank in ranks[1:]:
        rank.tell("wait", timeout_secs=2)
    ranks[0].stop()
    answers = [rank.answer() for rank in ranks[1:]]
    assert {answer["error"] for answer in answers} == {"BarrierConnectionError"}
    assert max(answer["secs"] for answer in answers) < 15


def test_a_warning_in_time_names_the_rank_that_hosts_a_frozen_store(
    ranks: list[HostRank],
) -> None:
    ranks[0].stop()
    for rank in ranks[1:]:
        rank.tell("wait", timeout_secs=8, say_so=True)
    for rank in ranks[1:]:
        warning = rank.answer()
        assert warning["waits"]
        # "alive" where a connection to it had been made before it was stopped.
        late = r"rank 0 \(left, pid 1\), (alive|unknown), its store has not answered for "
        assert re.match(late, warning["late"][0])
        assert warning["secs"] < 6  # the store's answer would have been waited for longer
    answers = [rank.answer(60) for rank in ranks[1:]]
    assert all(
        "the store is hosted by rank 0 (left, pid 1), " in each["message"] for each in answers
    )


def test_a_warning_in_time_says_that_the_host_of_the_store_does_not_answer(
    network: Network, job: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        stack.callback(network.mend)
        pair = [HostRank(network, host, number, 2) for number, host in enumerate(("left", "right"))]
        for rank in pair:
            stack.callback(rank.end)
            rank.tell("create", **job | {"warn_after_secs": 3})
        assert [rank.answer()["error"] for rank in pair] == [None, None]
        run(pair, "rounds", count=3)
        network.loss["right"] = 1.0
        pair[1].tell("wait", timeout_secs=4, say_so=True)
        (host,) = pair[1].answer()["late"]
        answer = pair[1].answer(60)
    assert host.startswith("rank 0 (left, pid 1), unknown, its store has not answered for ")
    assert host.endswith(" s, its host does not answer")
    assert answer["kind"] == "store"
    assert "rank 0 (left, pid 1), unknown, its host does not answer" in answer["message"]


@pytest.mark.parametrize("how", ["link down", "packets dropped"])
def test_a_partition_is_survived_within_the_deadline(
    network: Network, ranks: list[HostRank], how: str
) -> None:
    ranks[1].tell("wait", timeout_secs=3)
    ranks[2].tell("wait", timeout_secs=3)
    if how == "link down":
        network.unplug()
    else:
        network.loss["right"] = 1.0
    ranks[3].tell("wait", timeout_secs=3)
    ranks[0].tell("wait", timeout_secs=3)
    near, far = [[rank.answer() for rank in side] for side in (ranks[:2], ranks[2:])]
    # Who still has the store knows who is missing; who has lost it says so.
    assert {answer["error"] for answer in near} == {"BarrierTimeoutError"}
    assert {answer["error"] for answer in far} == {"BarrierConnectionError"}
    assert len({answer["message"] for answer in near}) == 1
    assert 3 in near[0]["missing"]
    assert max(answer["secs"] for answer in near + far) < 15


def test_latency_and_loss_change_nothing_but_time(network: Network, ranks: list[HostRank]) -> None:
    network.delay_secs["right"], network.loss["right"] = (
        0.05,
        0.01,
    )  # in each direction: 100 ms a round trip
    run(ranks, "rounds", count=20)
    for rank in ranks[1:]:
        rank.tell("wait", tag="save")
    run(ranks[:1], "abort", reason="disk full on /ckpt")
    answers = [rank.answer() for rank in ranks[1:]]
    assert {answer["kind"] for answer in answers} == {"abort"}
    assert all("disk full on /ckpt" in answer["message"] for answer in answers)


def test_a_death_is_seen_through_latency_and_loss(network: Network, ranks: list[HostRank]) -> None:
    network.delay_secs["right"] = 0.05
    network.loss["right"] = 0.01
    for rank in ranks[:3]:
        rank.tell("wait")
    ranks[3].kill()
    answers = [rank.answer() for rank in ranks[:3]]
    assert {answer["kind"] for answer in answers} == {"dead"}
    assert {tuple(answer["missing"]) for answer in answers} == {(3,)}
