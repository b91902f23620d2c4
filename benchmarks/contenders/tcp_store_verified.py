"""Our ``tcp_store`` with a secret, and every record authenticated with it."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks.contenders.tcp_store import TCPStoreContender


class VerifiedContender(TCPStoreContender):
    """What ``verify=True`` costs."""

    title = "tcp_store, verify"
    options: ClassVar[dict[str, Any]] = {"secret": "known to the ranks alone", "verify": True}


CONTENDER = VerifiedContender
