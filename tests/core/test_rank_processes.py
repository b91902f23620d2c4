"""The rank processes that tests kill, stop and interrupt: what they promise to a test."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from barrier_core.errors import BarrierTimeoutError
from barrier_core.testing.rank_processes import RankEndedError, RankProcesses, state, wait_until
from barrier_core.verdict import RankStatus, Verdict

VERDICT = Verdict("timeout", 3, rank=1, world_size=2, missing=(RankStatus(0, "alive", "a", 7),))


@pytest.fixture(scope="module")
def shared() -> Iterator[RankProcesses]:
    with RankProcesses(2, timeout_secs=20) as ranks:
        yield ranks


@pytest.fixture
def ranks(shared: RankProcesses) -> RankProcesses:
    shared.refresh()
    return shared


def add(rank: int, number: int, *, more: int = 0) -> int:
    return rank + number + more


def keep(rank: int, value: str) -> None:
    state["kept"] = value


def kept(rank: int) -> str:
    return f"{state['kept']} on rank {rank}"


def sleep(rank: int, seconds: float = 60.0) -> None:
    time.sleep(seconds)


def say_so_and_sleep(rank: int, asleep: Path) -> None:
    asleep.touch()
    sleep(rank)


def fail(rank: int) -> None:
    raise BarrierTimeoutError(VERDICT)


class UnpicklableError(Exception):
    """An error that can be pickled, but not read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def fail_unpicklably(rank: int) -> None:
    raise UnpicklableError("not", "readable")


def leave(rank: int, code: int) -> None:
    sys.exit(code)


def test_a_function_runs_in_every_rank_and_returns_its_results(ranks: RankProcesses) -> None:
    assert len(ranks) == 2
    assert ranks.run_all(add, 10) == [10, 11]
    assert ranks.run(1, add, 10, more=5) == 16
    assert ranks.start_all(add, 1, ranks=[1])[0].result() == 2


def test_what_one_function_keeps_is_there_for_the_next(ranks: RankProcesses) -> None:
    ranks.run_all(keep, "this")
    assert ranks.run_all(kept) == ["this on rank 0", "this on rank 1"]


def test_an_error_comes_back_with_its_verdict_and_its_traceback(ranks: RankProcesses) -> None:
    with pytest.raises(BarrierTimeoutError) as caught:
        ranks.run(0, fail)
    assert caught.value.verdict == VERDICT
    assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_pickled_comes_back_in_words(ranks: RankProcesses) -> None:
    with pytest.raises(RuntimeError, match="UnpicklableError: not readable"):
        ranks.run(0, fail_unpicklably)


def test_run_all_raises_the_first_failure_while_others_wait(ranks: RankProcesses) -> None:
    ranks.start(0, sleep)  # keeps rank 0 from coming to what it is asked next
    with pytest.raises(BarrierTimeoutError):
        ranks.run_all(fail)


def test_a_call_that_takes_too_long_is_named(
    ranks: RankProcesses, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ranks.replace(1)  # by one whose stderr is this test's
    call = ranks.start(1, say_so_and_sleep, tmp_path / "asleep")
    wait_until((tmp_path / "asleep").exists, "rank 1 sleeps")
    with pytest.raises(TimeoutError, match=rf"sleep\(\) on rank 1 \(pid {ranks.pid(1)}\)"):
        call.result(0.1)
    assert "in say_so_and_sleep" in capfd.readouterr().err  # its stacks
    ranks.timeout_secs, before = 0.1, ranks.timeout_secs
    with pytest.raises(TimeoutError, match=r"has not ended after 0\.1 s"):
        ranks.run_all(sleep)
    ranks.timeout_secs = before


def test_a_killed_rank_is_said_to_be_and_can_be_replaced(ranks: RankProcesses) -> None:
    call = ranks.start(1, sleep)
    before = ranks.pid(1)
    ranks.kill(1)
    with pytest.raises(RankEndedError, match="ended by SIGKILL"):
        call.result()
    with pytest.raises(RankEndedError, match=r"cannot run add\(\)"):
        ranks.run(1, add, 1)
    assert ranks.exit_code(1) == -signal.SIGKILL
    ranks.replace(1)
    assert ranks.pid(1) != before
    assert ranks.run_all(add, 1) == [1, 2]


def test_a_stopped_rank_stands_still_until_it_is_continued(ranks: RankProcesses) -> None:
    ranks.stop(0)
    call = ranks.start(0, add, 1)
    with pytest.raises(TimeoutError, match="stopped"):
        call.result(0.1)
    assert not call.done()
    ranks.cont(0)
    assert call.result() == 1


def test_ctrl_c_interrupts_a_running_function_and_no_other(
    ranks: RankProcesses, tmp_path: Path
) -> None:
    ranks.interrupt(0)
    assert ranks.run(0, add, 1) == 1
    call = ranks.start(0, say_so_and_sleep, tmp_path / "asleep")
    wait_until((tmp_path / "asleep").exists, "rank 0 sleeps")
    ranks.interrupt(0)
    assert isinstance(call.error(), KeyboardInterrupt)
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        call.result()  # not the KeyboardInterrupt itself, which would end the test run
    assert ranks.run(0, add, 1) == 1


def test_a_rank_ends_as_a_script_does(ranks: RankProcesses) -> None:
    call = ranks.start(0, leave, 3)
    with pytest.raises(RankEndedError, match="exited with code 3"):
        call.result()
    ranks.start(1, sleep, 0.1)
    ranks.let_end(1)
    assert ranks.exit_code(1) == 0


def test_an_exit_that_takes_too_long_is_an_error(ranks: RankProcesses) -> None:
    ranks.start(1, sleep)
    with pytest.raises(TimeoutError, match=r"rank 1 .* has not exited after 0\.1 s"):
        ranks.exit_code(1, 0.1)


def test_closing_ends_busy_and_stopped_ranks(ranks: RankProcesses) -> None:
    own = RankProcesses(2)
    pids = [own.pid(rank) for rank in range(2)]
    own.start(0, sleep)
    own.stop(1)
    own.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_waiting_for_what_does_not_come_says_what_it_was() -> None:
    with pytest.raises(TimeoutError, match=r"after 0\.01 s it is still not true that pigs fly"):
        wait_until(lambda: False, "pigs fly", 0.01)
