"""A wait that another thread, or a signal handler, ends."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from barrier_core.agreement.wakeup import PollableWakeUp, WakeUp

SCRIPT = """
import os, signal, threading, time
from barrier_core.agreement.wakeup import WakeUp

signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.5))
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
print(WakeUp().wait(0.3))
"""


@pytest.fixture(params=[WakeUp, PollableWakeUp])
def wake_up(request: pytest.FixtureRequest) -> Iterator[WakeUp]:
    made: WakeUp = request.param()
    yield made
    made.close()


def test_a_call_ends_the_wait_or_else_the_next_one(wake_up: WakeUp) -> None:
    wake_up.call()
    wake_up.call()
    assert wake_up.called()
    assert wake_up.wait(60)
    assert not wake_up.called()
    assert not wake_up.wait(0)


def test_calls_can_be_taken_back(wake_up: WakeUp) -> None:
    wake_up.call()
    wake_up.clear()
    wake_up.clear()
    assert not wake_up.wait(0.001)


def test_its_descriptor_can_be_read_while_there_is_a_call() -> None:
    wake_up = PollableWakeUp()
    poller = select.poll()
    poller.register(wake_up.descriptor(), select.POLLIN)
    assert not poller.poll(0)
    for _ in range(100_000):  # more than the pipe takes
        wake_up.call()
    assert poller.poll(0)
    while poller.poll(0):
        wake_up.clear()
    assert not wake_up.called()
    wake_up.close()
    wake_up.close()
    wake_up.call()


def test_a_signal_handler_that_outlasts_the_time_limit_does_not_prolong_the_wait() -> None:
    command = [sys.executable, "-c", SCRIPT]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert output == "False\n"
