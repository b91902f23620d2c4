"""What every barrier does the same way, shown with a backend that never waits for anybody."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from barrier_core import (
    Barrier,
    BarrierConfigError,
    BarrierPluginError,
    BarrierTimeoutError,
    BarrierUsageError,
    BrokenBarrierError,
    Capability,
    Verdict,
)
from barrier_core.errors import describe_exception, failure
from tests.support.recording_backend import Recording, break_round, do_nothing


class Modest(Barrier):
    """A backend that declares nothing."""

    barrier_type = "modest"

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


class Boastful(Barrier):
    """A backend that declares what it has not written."""

    barrier_type = "boastful"
    capabilities = Capability.ABORT | Capability.PROGRESS

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        pass


@pytest.fixture
def barrier() -> Recording:
    return Recording()


# --- rounds --------------------------------------------------------------------------------------


def test_rounds_are_counted_from_one(barrier: Recording) -> None:
    assert barrier.round == 0

    for _ in range(3):
        barrier.execute_barrier()

    assert [asked[1] for asked in barrier.asked] == [1, 2, 3]
    assert barrier.round == 3


def test_a_call_waits_for_as_long_as_the_barrier_says_unless_it_says_otherwise() -> None:
    barrier = Recording(timeout_secs=60)

    barrier.execute_barrier()
    barrier.execute_barrier(timeout_secs=5, tag="save step=1200")
    barrier.execute_barrier(tag="load")

    assert barrier.asked == [
        ("wait", 1, 60.0, ""),
        ("wait", 2, 5, "save step=1200"),
        ("wait", 3, 60.0, "load"),
    ]


@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf, "5", True])
def test_a_call_with_an_unusable_timeout_is_no_arrival(barrier: Recording, seconds: float) -> None:
    with pytest.raises(BarrierConfigError, match=f"timeout_secs={seconds!r} must be a positive"):
        barrier.execute_barrier(timeout_secs=seconds)

    assert (barrier.round, barrier.asked) == (0, [])


@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf, "5", True])
def test_a_barrier_with_an_unusable_timeout_is_not_made(seconds: float) -> None:
    with pytest.raises(BarrierConfigError, match=f"timeout_secs={seconds!r} must be a positive"):
        Recording(timeout_secs=seconds)


def test_the_soft_limit_can_be_turned_off_but_not_be_nonsense() -> None:
    assert Recording(warn_after_secs=None).warn_after_secs is None
    with pytest.raises(BarrierConfigError, match="warn_after_secs=-1 must be a positive"):
        Recording(warn_after_secs=-1)


# --- failed rounds -------------------------------------------------------------------------------


def test_a_failed_round_breaks_the_barrier_for_good(barrier: Recording) -> None:
    barrier.execute_barrier()
    barrier.meanwhile = break_round(barrier)
    with pytest.raises(BarrierTimeoutError) as first:
        barrier.execute_barrier()
    barrier.meanwhile = do_nothing

    with pytest.raises(BarrierTimeoutError) as again:
        barrier.execute_barrier()

    assert again.value.verdict == first.value.verdict
    assert again.value is not first.value  # each with a traceback of its own
    assert barrier.failed is first.value
    assert barrier.round == 2
    assert [asked[1] for asked in barrier.asked] == [1, 2]


def test_a_round_broken_by_another_rank_is_raised_with_that_ranks_reason(
    barrier: Recording,
) -> None:
    def aborted() -> None:
        raise failure(Verdict("abort", 1, rank=3, reason="disk full", world_size=4))

    barrier.meanwhile = aborted

    with pytest.raises(BrokenBarrierError, match=r"aborted by rank 3: disk full") as raised:
        barrier.execute_barrier()

    assert isinstance(raised.value, threading.BrokenBarrierError)


def test_an_error_that_is_no_verdict_does_not_break_the_barrier(barrier: Recording) -> None:
    def refuse() -> None:
        raise BarrierConfigError("the tag is too long")

    barrier.meanwhile = refuse
    with pytest.raises(BarrierConfigError, match="the tag is too long"):
        barrier.execute_barrier()
    barrier.meanwhile = do_nothing

    barrier.execute_barrier()

    assert barrier.failed is None


# --- one thread at a time ------------------------------------------------------------------------


@pytest.fixture
def occupied(barrier: Recording) -> Iterator[Recording]:
    """A barrier in which a thread waits."""
    arrived, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        arrived.set()
        assert go_on.wait(60)

    barrier.meanwhile = wait
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(barrier.execute_barrier)
        assert arrived.wait(60)
        yield barrier
        go_on.set()
        waiting.result(60)
    assert barrier.round == 1


@pytest.mark.parametrize("use", [Recording.execute_barrier, Recording.close])
def test_a_second_thread_is_told_so_instead_of_arriving(
    occupied: Recording, use: Callable[[Recording], None]
) -> None:
    with pytest.raises(BarrierUsageError) as raised:
        use(occupied)

    message = str(raised.value)
    assert "two threads of rank 0 use the same recording barrier at once" in message
    assert "round 1 is under way" in message
    assert "give each thread a barrier with a prefix of its own" in message
    assert not occupied.closed


def test_any_thread_may_abort_and_report_while_another_waits(occupied: Recording) -> None:
    occupied.report_progress("shard 12/40")
    occupied.abort("disk full")

    assert occupied.asked[1:] == [("progress", "shard 12/40"), ("abort", "disk full")]


# --- phases and aborts ---------------------------------------------------------------------------


def test_a_phase_ends_in_the_barrier(barrier: Recording) -> None:
    with barrier.phase("save", timeout_secs=5):
        assert barrier.asked == []

    assert barrier.asked == [("wait", 1, 5, "save")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("disk full on /ckpt"), "OSError: disk full on /ckpt in phase 'save'"),
        (KeyboardInterrupt(), "KeyboardInterrupt in phase 'save'"),
    ],
)
def test_a_phase_left_by_an_exception_aborts_and_lets_it_go_on(
    barrier: Recording, error: BaseException, reason: str
) -> None:
    with pytest.raises(type(error)) as raised, barrier.phase("save"):
        raise error

    assert raised.value is error
    assert barrier.asked == [("abort", reason)]
    assert barrier.round == 0


def test_a_phase_left_by_an_exception_lets_it_go_on_from_a_closed_barrier(
    barrier: Recording,
) -> None:
    def close_and_fail() -> None:
        with barrier.phase("save"):
            barrier.close()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        close_and_fail()

    assert barrier.asked == [("close",)]


def test_aborting_a_broken_barrier_does_nothing(barrier: Recording) -> None:
    barrier.meanwhile = break_round(barrier)
    with pytest.raises(BarrierTimeoutError):
        barrier.execute_barrier()

    barrier.abort("too late")

    assert ("abort", "too late") not in barrier.asked


# --- capabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError("disk full on /ckpt"), KeyboardInterrupt(), SystemExit(1)]
)
def test_leaving_a_barrier_by_an_exception_aborts_closes_and_lets_it_go_on(
    barrier: Recording, error: BaseException
) -> None:
    with pytest.raises(type(error)) as raised, barrier:
        raise error

    assert raised.value is error
    assert barrier.asked == [("abort", describe_exception(error)), ("close",)]


@pytest.mark.parametrize("error", [SystemExit(), SystemExit(0), GeneratorExit()])
def test_a_program_that_ends_inside_a_barrier_only_closes_it(
    barrier: Recording, error: BaseException
) -> None:
    with pytest.raises(type(error)), barrier:
        raise error

    assert barrier.asked == [("close",)]


def test_leaving_a_barrier_that_cannot_abort_by_an_exception_closes_it() -> None:
    barrier = Modest(0, 1)

    with pytest.raises(OSError, match="disk full"), barrier:
        raise OSError("disk full")

    assert barrier.closed


def test_what_goes_wrong_on_leaving_does_not_replace_the_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(OSError, match="disk full"), Boastful(0, 1) as barrier:
        raise OSError("disk full")

    assert barrier.closed
    assert "could not abort boastful on the way out" in caplog.text


def test_nothing_is_told_of_an_exception_on_leaving_a_closed_or_broken_barrier() -> None:
    closed, broken = Recording(), Recording()
    broken.meanwhile = break_round(broken)

    closed.close()
    with pytest.raises(OSError, match="disk full"), closed:
        raise OSError("disk full")
    with pytest.raises(BarrierTimeoutError), broken:
        broken.execute_barrier()

    assert closed.asked == [("close",)]
    assert broken.asked[1:] == [("close",)]


class UnspeakableError(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise OSError


class OddText(str):
    """Text that cannot be encoded by its own method."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        raise OSError

    def __str__(self) -> str:
        return self


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (3, "3"),
        (None, "None"),
        ("a\udce9b", "a\\udce9b"),
        ("é" * 5000, "é" * 1998 + "..."),
        pytest.param(OddText("odd"), "odd", id="odd text"),
        ("redis://:s3cret@store", "redis://:***@store"),
        (UnspeakableError(), "UnspeakableError (its text cannot be had: OSError)"),
    ],
)
def test_whatever_is_said_is_sent_as_text(barrier: Recording, said: Any, sent: str) -> None:
    barrier.abort(said)
    barrier.report_progress(said)

    assert barrier.asked == [("abort", sent), ("progress", sent)]
    if type(said) is str:
        assert describe_exception(OSError(said)) == f"OSError: {sent}"


def test_an_abort_that_cannot_be_told_does_not_replace_the_exception() -> None:
    with pytest.raises(OSError, match="disk full"), Boastful(0, 1).phase("save"):
        raise OSError("disk full")


@pytest.mark.parametrize("tag", [3, None, "x" * 501, "\udcff", b"save", UnspeakableError()])
def test_a_phase_whose_tag_cannot_be_used_does_not_run(barrier: Recording, tag: Any) -> None:
    with pytest.raises(BarrierConfigError, match="must be a text of at most 500"):  # noqa: SIM117
        with barrier.phase(tag):
            raise AssertionError("it runs")


@pytest.mark.parametrize("round_", ["1", 1.0, math.nan, True, object()])
def test_a_round_that_is_no_number_is_none_to_abort(barrier: Recording, round_: Any) -> None:
    with pytest.raises(BarrierConfigError, match="must be a whole number"):
        barrier.abort("disk full", round=round_)

    assert barrier.asked == []


@pytest.mark.parametrize("copy_it", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_barrier_is_not_copied(barrier: Recording, copy_it: Callable[[Barrier], object]) -> None:
    with pytest.raises(BarrierUsageError, match="cannot be copied or pickled, as a copy would"):
        copy_it(barrier)

    barrier.execute_barrier()


def test_an_abort_may_name_its_round(barrier: Recording) -> None:
    barrier.execute_barrier()

    assert not barrier.abort("too late", round=1)
    with pytest.raises(
        BarrierUsageError, match=r"round=3\) is too early: .* comes to round 2 next"
    ):
        barrier.abort("too early", round=3)
    assert barrier.abort("disk full", round=2)

    assert barrier.asked[1:] == [("abort", "disk full", 2)]


def enter_phase(barrier: Barrier) -> None:
    with barrier.phase("save"):
        pytest.fail("a phase that cannot abort must not begin")


NEEDS: dict[str, tuple[Callable[[Barrier], object], str]] = {
    "abort": (lambda barrier: barrier.abort("disk full"), "abort"),
    "phase": (enter_phase, "abort"),
    "report_progress": (lambda barrier: barrier.report_progress("1/2"), "progress"),
}


@pytest.mark.parametrize(("use", "capability"), NEEDS.values(), ids=NEEDS)
def test_what_a_backend_does_not_declare_is_refused(
    use: Callable[[Barrier], None], capability: str
) -> None:
    with pytest.raises(BarrierUsageError) as raised:
        use(Modest(0, 1))

    message = str(raised.value)
    assert f"the modest barrier does not declare the capability {capability!r}" in message
    assert "`barrier list`" in message


def test_what_a_backend_declares_and_has_not_written_is_its_authors_mistake() -> None:
    barrier = Boastful(0, 1)

    with pytest.raises(BarrierPluginError, match="Boastful declares ABORT but has no _abort"):
        barrier.abort("disk full")
    with pytest.raises(BarrierPluginError, match="declares PROGRESS but has no _report_progress"):
        barrier.report_progress("1/2")


def test_capabilities_are_named_in_lower_case_in_the_order_of_their_class() -> None:
    assert (Capability.PROGRESS | Capability.ONE_VERDICT).names == ["one_verdict", "progress"]
    assert Capability.NONE.names == []


# --- closing -------------------------------------------------------------------------------------

USES: dict[str, Callable[[Recording], object]] = {
    "execute_barrier": Recording.execute_barrier,
    "abort": lambda barrier: barrier.abort("disk full"),
    "report_progress": lambda barrier: barrier.report_progress("1/2"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_barrier_cannot_be_used(
    barrier: Recording, use: Callable[[Recording], None]
) -> None:
    barrier.close()

    # Twice: the first refusal must not keep the barrier's turn.
    for _ in range(2):
        with pytest.raises(BarrierUsageError, match="recording barrier is closed; create a"):
            use(barrier)

    assert barrier.asked == [("close",)]


def test_closing_again_does_nothing(barrier: Recording) -> None:
    barrier.close()
    barrier.close()

    assert barrier.asked == [("close",)]


def test_a_with_block_closes_the_barrier() -> None:
    with Recording() as barrier:
        barrier.execute_barrier()

    assert barrier.closed
    assert barrier.asked[-1] == ("close",)


def test_a_with_block_closes_a_broken_barrier_and_lets_the_error_go_on(
    barrier: Recording,
) -> None:
    barrier.meanwhile = break_round(barrier)

    with pytest.raises(BarrierTimeoutError), barrier:
        barrier.execute_barrier()

    assert barrier.closed


def test_a_backend_with_nothing_to_release_writes_no_close() -> None:
    barrier = Modest(0, 1)

    barrier.close()

    assert barrier.closed
