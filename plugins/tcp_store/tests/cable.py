"""Two hosts, and a cable between them that can be slow, lossy, cut or unplugged.

The cable is a thread that carries packets from one TUN device to another. It stands in for
tc-netem(8), which many kernels lack.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from contextlib import suppress

ADDRESSES = {"left": "10.77.31.1", "right": "10.77.31.2"}

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN_NO_PI = 0x1001
_PACKET_BYTES = 2048  # more than the devices' MTU of 1500


class Cable:
    """Two hosts (network namespaces) and the cable between them."""

    def __init__(self) -> None:
        self.hosts = {side: f"bc-{os.getpid()}-{side}" for side in ADDRESSES}
        self.delay_secs = 0.0
        """How long a packet takes, in each direction."""
        self.loss = 0.0
        """Share of the packets that get lost, from 0 to 1."""
        self._ends: dict[str, int] = {}
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._removed = threading.Event()

    def lay(self) -> None:
        """Make the hosts and connect them.

        Raises:
            OSError: TUN devices cannot be made here.
            subprocess.CalledProcessError: Network namespaces cannot be made here.
        """
        for number, (side, host) in enumerate(self.hosts.items()):
            device = f"bc{os.getpid() % 100000}{number}"
            end = self._ends[side] = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
            _ip("netns", "add", host)
            _ip("link", "set", device, "netns", host, "name", "eth0")
            _ip("-n", host, "address", "add", f"{ADDRESSES[side]}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "link", "set", "eth0", "up")
        self._thread.start()

    def unplug(self) -> None:
        """Take the link down; both hosts see that."""
        for host in self.hosts.values():
            _ip("-n", host, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Make the cable as good as new."""
        self.delay_secs = self.loss = 0.0
        for host in self.hosts.values():
            _ip("-n", host, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """Take everything down."""
        self._removed.set()
        if self._thread.is_alive():
            self._thread.join()
        for end in self._ends.values():
            os.close(end)
        for host in self.hosts.values():
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", host)

    def _carry(self) -> None:
        left, right = self._ends["left"], self._ends["right"]
        order = itertools.count()  # packets that are due at the same time keep their order
        under_way: list[tuple[float, int, int, bytes]] = []
        while not self._removed.is_set():
            pause = max(under_way[0][0] - time.monotonic(), 0.0) if under_way else 0.1
            for end in select.select([left, right], [], [], min(pause, 0.1))[0]:
                with suppress(OSError):  # the link is down
                    packet = os.read(end, _PACKET_BYTES)
                    if random.random() >= self.loss:
                        due = time.monotonic() + self.delay_secs
                        other = right if end == left else left
                        heapq.heappush(under_way, (due, next(order), other, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(under_way)
                with suppress(OSError):
                    os.write(end, packet)


def _ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
