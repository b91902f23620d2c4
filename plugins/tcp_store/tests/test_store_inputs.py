"""Every value that a user may give for an option of ``tcp_store`` works or is refused by name."""

from __future__ import annotations

import importlib
import logging
import socket
from contextlib import closing
from typing import Any

import pytest

from barrier_core.errors import BarrierConfigError, BarrierError, BarrierSetupError
from barrier_tcp_store import TCPStoreBarrier
from barrier_tcp_store.wire import TCPStoreClient


class OwnStore:
    """A PrefixStore around itself."""

    @property
    def underlying_store(self) -> OwnStore:
        return self


class TCPStore:
    """A store of that name that is none."""


class BrokenStore:
    """A store whose server does not answer."""

    def __init__(self) -> None:
        self.underlying_store = TCPStore()

    def compare_set(self, *_: str) -> bytes:
        raise RuntimeError("Broken pipe")


HOST = "cannot be the name or address of a host"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"master_address": ""}, f"master_address='' {HOST}"),
    ({"master_address": "a..b"}, HOST),
    ({"master_address": "x" * 64}, HOST),
    ({"master_address": "x." * 10_000}, HOST),
    ({"master_address": "host\0"}, HOST),
    ({"master_address": "\udcff"}, HOST),
    ({"master_address": b"127.0.0.1"}, HOST),
    ({"master_address": 3}, HOST),
    ({"tcpstore_port": 10**20}, "tcpstore_port=100000000000000000000 must be between 1 and 65535"),
    ({"tcpstore_port": 10**9999}, r"tcpstore_port=\(a number of 33216 bits\) must be between"),
    ({"tcpstore_port": "29511"}, "tcpstore_port='29511' must be a whole number"),
    ({"tcpstore_port": True}, "tcpstore_port=True must be a whole number"),
    ({"use_checkpoint_barrier_tcpstore_libuv": 2}, "=2 must be True or False"),
    ({"progress_extends_deadline": "yes"}, "='yes' must be True or False"),
    ({"linger_secs": float("nan")}, "linger_secs=nan must be 0 or a positive, finite"),
    ({"linger_secs": float("inf")}, "linger_secs=inf must be 0 or a positive, finite"),
    ({"global_world_size": 2**63}, "global_world_size=9223372036854775808 must be at least 1, and"),
    ({"global_rank": 2**24, "global_world_size": 2**25}, "global_world_size=33554432 must be"),
    ({"global_rank": "0"}, "global_rank='0' must be a whole number"),
    ({"barrier_prefix": 3}, "barrier_prefix=3 must be a text"),
    ({"job_id": "\udcff"}, r"job_id='\\udcff' must be a text of at most 500 bytes"),
    ({"store": OwnStore()}, "a PrefixStore around one, but this is a OwnStore"),
    ({"store": object()}, "a PrefixStore around one, but this is a object"),
    ({"store": TCPStore()}, "cannot be used: AttributeError"),
    ({"store": BrokenStore()}, "RuntimeError: Broken pipe; check that its server runs"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_used_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"global_rank": 0, "global_world_size": 1}
    with pytest.raises(BarrierError, match=message) as raised:
        TCPStoreBarrier(**(arguments | {"master_address": "127.0.0.1"} | options))
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MASTER_ADDR": "a..b"}, f"MASTER_ADDR='a..b' {HOST}"),
        ({"MASTER_PORT": "9" * 20}, "MASTER_PORT=99999999999999999999 must be between 1 and 65535"),
        ({"MASTER_PORT": "9" * 5_000}, "do not say where it is"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT=0 must be between 1 and 65535"),
        ({"TORCHELASTIC_RUN_ID": "\udcff"}, r"torchrun's job id='torchrun-\\udcff' in the environ"),
        ({"BARRIER_JOB_ID": "x" * 501}, "BARRIER_JOB_ID='xx.* must be a text of at most 500 bytes"),
        ({"TORCHELASTIC_RESTART_COUNT": "\udcff"}, "TORCHELASTIC_RESTART_COUNT='.* must be a text"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], message: str
) -> None:
    usable = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }
    for name, value in (usable | environ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BarrierConfigError, match=message):
        TCPStoreBarrier(0, 1, timeout_barrier_init_secs=0.1)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_all_interfaces_are_used_with_a_warning_where_somebody_asks_for_them(
    free_port: int, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TCPStoreBarrier(0, 1, tcpstore_port=free_port, master_address=address) as barrier:
        barrier.execute_barrier()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "on all interfaces, where every host that reaches this one" in warnings[0].getMessage()


@pytest.mark.parametrize("address", ["0", "0x0"])
def test_all_interfaces_are_not_used_where_nobody_asks_for_them(
    free_port: int, address: str
) -> None:
    with pytest.raises(BarrierSetupError, match="it stands for all interfaces; give an address"):
        TCPStoreBarrier(0, 1, tcpstore_port=free_port, master_address=address)


def test_a_rank_at_an_address_of_ipv4_in_ipv6_has_a_liveness_port(free_port: int) -> None:
    importlib.import_module("torch.distributed")
    address = "::ffff:127.0.0.1"
    with (
        TCPStoreBarrier(0, 1, "mapped", tcpstore_port=free_port, master_address=address) as barrier,
        closing(TCPStoreClient(address, free_port)) as client,
    ):
        barrier.execute_barrier()
        (member,) = client.read(["barrier//mapped/0.0/member/0"])
        assert member is not None
        assert b'"liveness_port":["127.0.0.1",' in member
        port = int(member.partition(b'"127.0.0.1",')[2].partition(b"]")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
