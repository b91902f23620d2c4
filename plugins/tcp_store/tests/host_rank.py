"""A rank that does what it is told, one JSON command a line; see test_two_hosts.py."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from barrier_core import BarrierError, BarrierFailedError, create_barrier
from barrier_core.plugin_api import RankStatus, hookimpl, plugin_manager


class Waiting:
    """Says, once it is told to, when this rank has waited for a while."""

    @classmethod
    def say_so(cls, wanted: bool = True) -> None:
        """Say it of the next round."""
        if wanted:
            plugin_manager.register(cls())

    @hookimpl
    def barrier_waiting(self, waited_secs: float, missing: tuple[RankStatus, ...]) -> None:
        """Say so once, and who is missing."""
        late = [str(status) for status in missing]
        print(json.dumps({"waits": True, "late": late, "secs": waited_secs}), flush=True)
        plugin_manager.unregister(self)


def fork(secs: float) -> None:
    """Have a child that stays for so long, whatever becomes of this rank."""
    if os.fork() == 0:
        time.sleep(secs)
        os._exit(0)


def main() -> None:  # noqa: PLR0912 - one case a command
    """Obey until the end of input."""
    # Where a shell has put the test run into the background, Ctrl-C is ignored from the start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    barrier: Any = None
    for line in sys.stdin:
        command = json.loads(line)
        started = time.monotonic()
        answer: dict[str, Any] = {"error": None}
        try:
            match command.pop("do"):
                case "create":
                    barrier = create_barrier("tcp_store", **command)
                case "rounds":
                    for _ in range(command["count"]):
                        barrier.execute_barrier()
                case "wait":
                    Waiting.say_so(command.pop("say_so", False))
                    barrier.execute_barrier(**command)
                case "hold the interpreter":
                    # A C call that does not give the interpreter lock back: no thread runs.
                    print(json.dumps({"holds": True}), flush=True)
                    ctypes.PyDLL(None).sleep(command["secs"])
                case "progress":
                    barrier.report_progress(command["text"])
                case "abort":
                    barrier.abort(command["reason"])
                case "fail in phase":
                    with suppress(OSError), barrier.phase("save"):
                        raise OSError(command["reason"])
                case "fork":
                    fork(command["secs"])
                case "close":
                    barrier.close()
        except BarrierError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
            if isinstance(error, BarrierFailedError):
                answer["kind"] = error.verdict.kind
                answer["missing"] = [status.rank for status in error.verdict.missing]
                answer["states"] = [status.state for status in error.verdict.missing]
        except KeyboardInterrupt:
            answer = {"error": "KeyboardInterrupt"}
        answer["secs"] = time.monotonic() - started
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
