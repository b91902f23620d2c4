"""Two hosts, and between them what lies about a rank: a packet filter, or a port forwarder.

A living rank that falls silent behind one is never called dead; a killed one is found without one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugins.tcp_store.tests.test_two_hosts import HostRank, job, ranks, run
from tests.support.network import Network

__all__ = ["job", "ranks"]  # fixtures

_LIMIT_SECS = 6.0

_REJECTS = {
    "rejected by reset": ("REJECT", "--reject-with", "tcp-reset"),
    "rejected by icmp": ("REJECT", "--reject-with", "icmp-port-unreachable"),
    "dropped": ("DROP",),
}


@pytest.fixture
def filter_ports(network: Network, job: dict[str, Any]) -> Iterator[Callable[[str], None]]:
    """Have the right host's filter stop what is not the store's, from now on."""
    if shutil.which("iptables") is None:
        pytest.skip("iptables not found: install it to test behind packet filters")

    def iptables(*words: str) -> None:
        subprocess.run(
            [*network.inside("right"), "iptables", *words],
            check=True,
            capture_output=True,
            text=True,
        )

    def start(how: str) -> None:
        store = str(job["tcpstore_port"])
        others = ("-p", "tcp", "!", "--sport", store, "-j", *_REJECTS[how])
        try:
            iptables("-A", "INPUT", *others)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the kernel has no such filter: {error.stderr}")

    yield start
    subprocess.run([*network.inside("right"), "iptables", "-F"], check=True)


def silence(rank: HostRank, how: str) -> None:
    """Make a rank's threads stand still, although it lives."""
    if how == "stopped":
        rank.stop()
    else:
        rank.tell("hold the interpreter", secs=600)
        assert rank.answer()["holds"]


@pytest.mark.parametrize("silent", ["stopped", "holds the interpreter"])
@pytest.mark.parametrize("how", list(_REJECTS))
def test_a_silent_rank_behind_a_filter_is_never_called_dead(
    ranks: list[HostRank], filter_ports: Callable[[str], None], how: str, silent: str
) -> None:
    filter_ports(how)
    silence(ranks[3], silent)
    for rank in ranks[:3]:
        rank.tell("wait", timeout_secs=_LIMIT_SECS)
    answers = [rank.answer() for rank in ranks[:3]]
    assert {answer["kind"] for answer in answers} == {"timeout"}, answers
    assert len({answer["message"] for answer in answers}) == 1
    assert answers[0]["missing"] == [3]
    assert answers[0]["states"][0] in ("alive", "unknown")


@pytest.mark.parametrize("fate", ["holds the interpreter", "killed"])
@pytest.mark.parametrize("how", list(_REJECTS))
def test_a_rank_that_was_always_behind_a_filter_is_never_called_dead(
    network: Network, job: dict[str, Any], filter_ports: Callable[[str], None], how: str, fate: str
) -> None:
    filter_ports(how)  # so nobody has ever reached its port
    with ExitStack() as stack:
        pair = [HostRank(network, host, number, 2) for number, host in enumerate(("left", "right"))]
        for rank in pair:
            stack.callback(rank.end)
            rank.tell("create", **job)
        assert [rank.answer()["error"] for rank in pair] == [None, None]
        run(pair, "rounds", count=3)
        if fate == "killed":
            pair[1].kill()
        else:
            silence(pair[1], fate)
        pair[0].tell("wait", timeout_secs=_LIMIT_SECS)
        answer = pair[0].answer()
    assert answer["kind"] == "timeout"
    assert answer["states"] == ["unknown"]


def test_the_end_of_a_forwarder_is_not_taken_for_the_death_of_the_rank_behind_it(
    network: Network, job: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        # Connections from the left host come to the forwarder, which makes them to the right one;
        # none comes from there: so rank 0 knows rank 1 through the forwarder only.
        store, left = str(job["tcpstore_port"]), network.inside("left")
        right = network.addresses["right"]
        redirect = f"-p tcp -d {right} -m owner ! --uid-owner 1 -j REDIRECT --to-ports 9999"
        drop = f"-i eth0 -p tcp --syn ! --dport {store} -j DROP"
        rules = (("nat", "OUTPUT", redirect), ("filter", "INPUT", drop))
        if shutil.which("iptables") is None:
            pytest.skip("iptables not found: install it to test with a port forwarder")
        for table, chain, rule in rules:
            words = [*left, "iptables", "-t", table]
            try:
                subprocess.run(
                    [*words, "-A", chain, *rule.split()], check=True, capture_output=True, text=True
                )
            except subprocess.CalledProcessError as error:
                pytest.skip(f"the kernel has no such filter: {error.stderr}")
            stack.callback(subprocess.run, [*words, "-F"], check=True)
        program = str(Path(__file__).with_name("forwarder.py"))
        forwarder = subprocess.Popen(
            network.command("left", sys.executable, program, "9999"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert forwarder.stdin is not None
        assert forwarder.stdout is not None
        stack.callback(forwarder.stdout.close)
        stack.callback(forwarder.wait)
        stack.callback(forwarder.stdin.close)
        assert forwarder.stdout.readline() == "listens\n"
        pair = [HostRank(network, host, number, 2) for number, host in enumerate(("left", "right"))]
        for rank in pair:
            stack.callback(rank.end)
            rank.tell("create", **job)
        assert [rank.answer()["error"] for rank in pair] == [None, None]
        run(pair, "rounds", count=3)
        assert forwarder.stdout.readline() == "forwards\n"
        silence(pair[1], "holds the interpreter")
        pair[0].tell("wait", timeout_secs=_LIMIT_SECS, say_so=True)
        assert pair[0].answer()["waits"]
        forwarder.stdin.close()
        forwarder.wait()
        answer = pair[0].answer()
    assert answer["kind"] == "timeout"
    assert answer["states"] == ["unknown"]
