"""Several hosts on one machine, and a network between them that can be slow, lossy or cut.

A host is a network namespace; programs on it also have process ids and a host name of their own.
The network is a thread that carries packets from one TUN device to another. It stands in for
tc-netem(8), which many kernels lack. Linux only; it needs root, ip(8) and unshare(1).
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_CONFIG = Path("/etc/netns")  # see ip-netns(8)
_SUBNET = "10.77.31"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN_NO_PI = 0x1001
_PACKET_BYTES = 2048  # more than the devices' MTU of 1500


class Network:
    """Hosts, each connected to all others.

    Args:
        hosts: Their names, at most 250.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.addresses = {host: f"{_SUBNET}.{number}" for number, host in enumerate(hosts, 1)}
        """The IPv4 address of each host."""
        self.delay_secs: dict[str, float] = defaultdict(float)
        """How long a packet takes from or to a host."""
        self.loss: dict[str, float] = defaultdict(float)
        """Share of the packets from or to a host that get lost, from 0 to 1."""
        self._ends: dict[int, str] = {}
        """The hosts by the descriptor of their TUN device."""
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._removed = threading.Event()

    def lay(self) -> None:
        """Make the hosts and connect them.

        Raises:
            OSError: TUN devices cannot be made here, or ip(8) or unshare(1) is missing.
            subprocess.CalledProcessError: Network namespaces cannot be made here.
        """
        missing = [name for name in ("ip", "unshare") if shutil.which(name) is None]
        if missing:
            raise FileNotFoundError(f"{' and '.join(missing)} not found")
        # ip(8) shows this file as /etc/hosts to programs there: hosts know each other by name, and
        # nobody waits for a name server that cannot be reached.
        names = "".join(
            # The second is how an IPv6 socket sees an IPv4 peer.
            f"{address} {host}\n::ffff:{address} {host}\n"
            for host, address in self.addresses.items()
        )
        for number, (host, address) in enumerate(self.addresses.items()):
            space = self._space(host)
            (_CONFIG / space).mkdir(parents=True)
            (_CONFIG / space / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            device = f"bc{os.getpid() % 100000}x{number}"
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            self._ends[end] = host
            fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
            _ip("netns", "add", space)
            _ip("link", "set", device, "netns", space, "name", "eth0")
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")
        self._thread.start()

    def command(self, host: str, *words: str) -> list[str]:
        """Return the command that runs a program on a host; killing it kills the program."""
        return [
            *self.inside(host),
            *("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", 'hostname "$0" && exec "$@"', host, *words),
        ]

    def inside(self, host: str) -> list[str]:
        """Return what to put before a command for it to see a host's network."""
        return ["ip", "netns", "exec", self._space(host)]

    def unplug(self) -> None:
        """Take all links down; the hosts see that."""
        for host in self.addresses:
            _ip("-n", self._space(host), "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Make the network as good as new."""
        self.delay_secs.clear()
        self.loss.clear()
        for host in self.addresses:
            _ip("-n", self._space(host), "link", "set", "eth0", "up")

    def remove(self) -> None:
        """Take everything down. Programs that still run on the hosts keep running, unconnected."""
        self._removed.set()
        if self._thread.is_alive():
            self._thread.join()
        for end in self._ends:
            os.close(end)
        for host in self.addresses:
            with suppress(OSError, subprocess.CalledProcessError):  # never made
                _ip("netns", "delete", self._space(host))
            shutil.rmtree(_CONFIG / self._space(host), ignore_errors=True)

    def _space(self, host: str) -> str:
        """Return the name of a host's namespace; names are shared by the whole machine."""
        return f"bc-{os.getpid()}-{host}"

    def _carry(self) -> None:
        end_of = {self.addresses[host]: end for end, host in self._ends.items()}
        order = itertools.count()  # packets that are due at the same time keep their order
        under_way: list[tuple[float, int, int, bytes]] = []
        while not self._removed.is_set():
            pause = max(under_way[0][0] - time.monotonic(), 0.0) if under_way else 0.1
            for end in select.select(list(self._ends), [], [], min(pause, 0.1))[0]:
                with suppress(OSError):  # the link is down
                    packet = os.read(end, _PACKET_BYTES)
                    # Bytes 16 to 19 of an IPv4 header; other packets have no host to go to.
                    target = end_of.get(socket.inet_ntoa(packet[16:20])) if packet else None
                    if target is None:
                        continue
                    hosts = self._ends[end], self._ends[target]
                    if random.random() >= max(self.loss.get(host, 0.0) for host in hosts):
                        delay_secs = sum(self.delay_secs.get(host, 0.0) for host in hosts)
                        due = time.monotonic() + delay_secs
                        heapq.heappush(under_way, (due, next(order), target, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(under_way)
                with suppress(OSError):
                    os.write(end, packet)


def _ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
