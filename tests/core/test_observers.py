"""What observers hear of any barrier, shown with a backend that never waits for anybody."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from barrier_core import (
    Barrier,
    BarrierError,
    BarrierTimeoutError,
    hookimpl,
)
from barrier_core.hooks import plugin_manager
from tests.support.recording_backend import Recording, break_round


@pytest.fixture
def barrier() -> Recording:
    return Recording()


class Listener:
    """An observer that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    @hookimpl
    def barrier_enter(self, barrier: Barrier, round: int, tag: str) -> None:
        self.heard.append(("enter", barrier, round, tag))

    @hookimpl
    def barrier_exit(self, barrier: Barrier, round: int, tag: str, waited_secs: float) -> None:
        assert waited_secs >= 0
        self.heard.append(("exit", barrier, round, tag))

    @hookimpl
    def barrier_failed(self, barrier: Barrier, round: int, error: BarrierError) -> None:
        self.heard.append(("failed", barrier, round, error))  # without the tag: pluggy allows it

    @hookimpl
    def barrier_closed(self, barrier: Barrier) -> None:
        self.heard.append(("closed", barrier))


class Deaf:
    """An observer that fails whatever it hears."""

    @hookimpl
    def barrier_enter(self) -> None:
        raise OSError("no trace file")

    @hookimpl
    def barrier_exit(self) -> None:
        raise OSError("no trace file")

    @hookimpl
    def barrier_failed(self) -> None:
        raise OSError("no trace file")

    @hookimpl
    def barrier_closed(self) -> None:
        raise OSError("no trace file")


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    plugin_manager.register(listener, "listener")
    yield listener
    plugin_manager.unregister(listener)


@pytest.fixture
def _somebody_fails() -> Iterator[None]:
    deaf = Deaf()
    plugin_manager.register(deaf, "deaf")
    yield
    plugin_manager.unregister(deaf)


def test_observers_hear_of_every_round_and_of_the_end(
    barrier: Recording, listener: Listener
) -> None:
    barrier.execute_barrier(tag="save")
    barrier.execute_barrier()
    barrier.close()
    barrier.close()

    assert listener.heard == [
        ("enter", barrier, 1, "save"),
        ("exit", barrier, 1, "save"),
        ("enter", barrier, 2, ""),
        ("exit", barrier, 2, ""),
        ("closed", barrier),
    ]


def test_observers_hear_that_a_round_failed_and_why(barrier: Recording, listener: Listener) -> None:
    barrier.meanwhile = break_round(barrier)

    with pytest.raises(BarrierTimeoutError) as raised:
        barrier.execute_barrier(tag="save")

    assert listener.heard == [
        ("enter", barrier, 1, "save"),
        ("failed", barrier, 1, raised.value),
    ]


def test_observers_do_not_hear_again_of_a_barrier_that_is_broken(
    barrier: Recording, listener: Listener
) -> None:
    barrier.meanwhile = break_round(barrier)
    for _ in range(2):
        with pytest.raises(BarrierTimeoutError):
            barrier.execute_barrier()

    assert [heard[0] for heard in listener.heard] == ["enter", "failed"]


@pytest.mark.usefixtures("listener", "_somebody_fails")
def test_an_observer_that_raises_is_logged_under_the_projects_name(
    barrier: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    barrier.execute_barrier()

    assert [(record.name, record.levelno, record.message) for record in caplog.records] == [
        ("barrier_core", logging.ERROR, f"observer deaf failed in {hook}; going on")
        for hook in ("barrier_enter", "barrier_exit")
    ]
    assert caplog.records[0].exc_info is not None


# The order in which pluggy calls them must not matter, so the one that raises comes both first
# and last.
@pytest.mark.parametrize(
    "order", [["listener", "_somebody_fails"], ["_somebody_fails", "listener"]]
)
def test_an_observer_that_raises_stops_neither_the_others_nor_the_barrier(
    barrier: Recording, request: pytest.FixtureRequest, order: list[str]
) -> None:
    for fixture in order:
        request.getfixturevalue(fixture)
    listener: Listener = request.getfixturevalue("listener")

    barrier.execute_barrier()
    barrier.meanwhile = break_round(barrier)
    with pytest.raises(BarrierTimeoutError):
        barrier.execute_barrier()
    barrier.close()

    heard = [heard[0] for heard in listener.heard]
    assert heard == ["enter", "exit", "enter", "failed", "closed"]


class Drowsy(Listener):
    """An observer that says when it wants rounds, or fails to."""

    wants: bool | None = False

    def wants_rounds(self) -> bool:
        if self.wants is None:
            raise OSError("no answer")
        return self.wants


@pytest.fixture
def drowsy() -> Iterator[Drowsy]:
    drowsy = Drowsy()
    plugin_manager.register(drowsy, "drowsy")
    yield drowsy
    plugin_manager.unregister(drowsy)


def kinds(listener: Listener) -> list[object]:
    return [heard[0] for heard in listener.heard]


def test_an_observer_hears_no_round_while_it_wants_none(barrier: Recording, drowsy: Drowsy) -> None:
    barrier.execute_barrier()
    assert drowsy.heard == []

    drowsy.wants = True
    barrier.execute_barrier()
    drowsy.wants = False
    barrier.execute_barrier()

    assert kinds(drowsy) == ["enter", "exit"]


def test_one_who_does_not_want_rounds_keeps_them_from_nobody(
    barrier: Recording, drowsy: Drowsy, listener: Listener
) -> None:
    barrier.execute_barrier()
    plugin_manager.unregister(drowsy)
    barrier.execute_barrier()
    plugin_manager.register(drowsy, "drowsy")
    barrier.execute_barrier()

    assert kinds(listener) == ["enter", "exit"] * 3


def test_an_observer_that_cannot_say_whether_it_wants_rounds_gets_them(
    barrier: Recording, drowsy: Drowsy, caplog: pytest.LogCaptureFixture
) -> None:
    drowsy.wants = None

    barrier.execute_barrier()

    assert kinds(drowsy) == ["enter", "exit"]
    assert "an observer failed in wants_rounds; going on with it" in caplog.text


def test_an_observer_that_begins_to_want_rounds_in_the_middle_of_one_hears_the_next(
    drowsy: Drowsy,
) -> None:
    class Waking(Recording):
        def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
            drowsy.wants = True

    barrier = Waking()
    for _ in range(2):
        barrier.execute_barrier()

    assert [heard[:3:2] for heard in drowsy.heard] == [("enter", 2), ("exit", 2)]
