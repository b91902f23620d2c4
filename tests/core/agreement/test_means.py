"""What an operating system may refuse: a rank without threads, memory or files says so."""

from __future__ import annotations

import errno
import logging
import threading

import pytest

from barrier_core import BarrierTimeoutError
from barrier_core.backends.local import LocalBarrier
from barrier_core.exhaustion import exhausted


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_slow_round_keeps_its_limit_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalBarrier(0, 2, "no threads") as barrier:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            barrier.report_progress("half")
            with pytest.raises(BarrierTimeoutError, match="1 of 2 ranks did not arrive: rank 1"):
                barrier.execute_barrier(0.3)

        messages = {record.getMessage() for record in caplog.records}
        assert messages == {
            "rank 0's barrier has no watcher: no thread can be started, and a barrier needs one; "
            "raise the number of processes that this user or container may have (`ulimit -u`, "
            "pids.max), or give it more memory"
        }
        assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "no memory is left"),
        (OSError(errno.EMFILE, ""), "RLIMIT_NOFILE"),
        (OSError(errno.ENFILE, ""), "fs.file-max"),
        (OSError(errno.ENOMEM, ""), "no memory left"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_what_has_run_out_is_named(error: Exception, says: str) -> None:
    assert says in (exhausted(error) or "")


@pytest.mark.parametrize("error", [OSError(errno.ECONNREFUSED, ""), RuntimeError("no"), KeyError()])
def test_any_other_error_is_about_something_else(error: Exception) -> None:
    assert exhausted(error) is None
