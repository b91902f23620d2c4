"""What a rank writes down of its rounds, whatever happens to the rank, its disk or its threads."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from barrier_core import (
    Barrier,
    BarrierConfigError,
    BarrierSetupError,
    BarrierTimeoutError,
    create_barrier,
)
from barrier_core.hooks import plugin_manager
from barrier_core.observers import trace_file
from barrier_core.observers.trace_format import (
    BarrierStart,
    ClockReading,
    FailedRound,
    Line,
    PassedRound,
    TraceStart,
)
from barrier_core.observers.trace_observer import TraceObserver
from barrier_core.testing.child_process import END_SECS
from barrier_core.testing.rank_processes import RankProcesses, state, wait_until
from barrier_core.testing.rank_threads import run_in_threads


class Alone(Barrier):
    """Waits for nobody; or raises in the round what it was given."""

    barrier_type: ClassVar[str] = "alone"

    def __init__(self, rank: int = 0, raises: BaseException | None = None) -> None:
        super().__init__(rank, rank + 1)
        self.raises = raises

    def _wait(self, number: int, timeout_secs: float, tag: str) -> None:
        if self.raises is not None:
            raise self.raises


def lines_of(path: Path) -> list[Line]:
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]  # the last line may still be written, or be torn
    return msgspec.json.Decoder(Line).decode_lines(whole)


def flush() -> None:
    """Have the observers of this process write what they have heard."""
    for observer in plugin_manager.get_plugins():
        if isinstance(observer, TraceObserver):
            assert observer.flush(END_SECS)


def lines_in(folder: Path) -> list[Line]:
    flush()
    return [line for path in sorted(folder.iterdir()) for line in lines_of(path)]


def passed(lines: list[Line]) -> list[int]:
    return [line.round for line in lines if isinstance(line, PassedRound)]


def rounds_in(folder: Path) -> list[int]:
    return passed(lines_in(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made" / "by the observer"


@pytest.fixture
def observer(folder: Path) -> Iterator[TraceObserver]:
    observer = TraceObserver(folder, max_bytes=2**16)
    plugin_manager.register(observer)
    yield observer
    plugin_manager.unregister(observer)
    observer.close()


def test_each_round_is_a_line_in_the_file_of_its_rank(
    observer: TraceObserver, folder: Path
) -> None:
    barriers = [
        create_barrier(
            "local", global_rank=rank, global_world_size=2, barrier_prefix="traced", generation="7"
        )
        for rank in range(2)
    ]

    def go(barrier: Barrier) -> None:
        with barrier:
            barrier.execute_barrier(tag="save step=1")
            barrier.execute_barrier()

    run_in_threads(go, barriers)
    flush()

    paths = sorted(folder.iterdir())
    assert len(paths) == 2
    arrivals = []
    for rank, path in enumerate(paths):
        start, clock, barrier, first, second = lines_of(path)
        assert isinstance(start, TraceStart)
        assert isinstance(clock, ClockReading)
        assert isinstance(barrier, BarrierStart)
        assert isinstance(first, PassedRound)
        assert isinstance(second, PassedRound)
        assert (start.rank, start.pid, start.before) == (rank, os.getpid(), 0)
        assert (barrier.barrier_type, barrier.prefix, barrier.generation, barrier.world_size) == (
            ("local", "traced", "7", 2)
        )
        assert (first.round, first.tag, second.round, second.tag) == (1, "save step=1", 2, "")
        assert first.entered_ns + first.waited_ns <= second.entered_ns
        arrivals.append(first)
    # On one clock: nobody leaves before all have entered.
    assert max(a.entered_ns for a in arrivals) <= min(a.entered_ns + a.waited_ns for a in arrivals)


@pytest.mark.usefixtures("observer")
def test_a_failed_round_has_its_verdict(folder: Path) -> None:
    barrier = create_barrier(
        "local", global_rank=1, global_world_size=4, barrier_prefix="failing", timeout_secs=0.05
    )
    with barrier, pytest.raises(BarrierTimeoutError) as raised:
        barrier.execute_barrier(tag="save")

    *_, failed = lines_in(folder)
    assert isinstance(failed, FailedRound)
    assert (failed.round, failed.tag, failed.kind) == (1, "save", "timeout")
    assert (failed.decided_by, failed.missing) == (1, "0, 2-3")
    assert failed.message == str(raised.value)
    assert failed.waited_ns >= 50_000_000


@pytest.mark.usefixtures("observer")
def test_an_error_without_a_verdict_is_named_by_its_class(folder: Path) -> None:
    with pytest.raises(BarrierSetupError):
        Alone(raises=BarrierSetupError("no store: \udcff")).execute_barrier()

    *_, failed = lines_in(folder)
    assert isinstance(failed, FailedRound)
    assert (failed.kind, failed.message) == ("BarrierSetupError", "no store: ?")


@pytest.mark.usefixtures("observer")
def test_an_interrupted_round_leaves_no_line_and_the_next_has_its_own_time(folder: Path) -> None:
    barrier = Alone(raises=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        barrier.execute_barrier()
    barrier.raises = None
    barrier.execute_barrier()

    *_, only = lines_in(folder)
    assert rounds_in(folder) == [1]
    assert isinstance(only, PassedRound)
    assert only.waited_ns < 10**9


@pytest.mark.usefixtures("observer")
def test_barriers_of_one_rank_share_its_file_and_are_told_apart(folder: Path) -> None:
    barriers = [Alone(), Alone(), Alone()]

    def go(barrier: Barrier) -> None:
        for _ in range(50):
            barrier.execute_barrier()

    run_in_threads(go, barriers)
    flush()

    (path,) = folder.iterdir()
    lines = lines_of(path)
    starts = [line for line in lines if isinstance(line, BarrierStart)]
    assert sorted(start.instance for start in starts) == [0, 1, 2]
    for start in starts:
        rounds = [
            line.round
            for line in lines
            if isinstance(line, PassedRound) and line.barrier == start.number
        ]
        assert rounds == list(range(1, 51))


def test_a_barrier_that_was_made_but_never_used_counts(
    observer: TraceObserver, folder: Path
) -> None:
    unused, used = Alone(), Alone()
    observer.barrier_created(unused)
    used.execute_barrier()

    assert [line.instance for line in lines_in(folder) if isinstance(line, BarrierStart)] == [1]


@pytest.mark.usefixtures("observer")
def test_the_files_are_bounded_and_tell_how_much_is_gone(folder: Path) -> None:
    barrier = Alone()
    for _ in range(3000):
        barrier.execute_barrier(tag="x" * 100)
    flush()

    old, new = sorted(folder.iterdir(), key=lambda path: ".old" not in path.name)
    assert old.stat().st_size + new.stat().st_size <= 2**16 + 1000
    start, *_ = lines_of(old)
    assert isinstance(start, TraceStart)
    # What is left is the end, without a gap.
    assert passed(lines_of(old) + lines_of(new)) == list(range(start.before + 1, 3001))


def test_a_bound_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BarrierConfigError, match="max_bytes=1000 is too little"):
        TraceObserver(tmp_path, max_bytes=1000)


def test_a_folder_that_cannot_be_made_is_logged_once_and_breaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").touch()
    observer = TraceObserver(tmp_path / "taken")
    plugin_manager.register(observer)
    try:
        barrier = Alone()
        with caplog.at_level(logging.WARNING, "barrier_core"):
            for _ in range(3):
                barrier.execute_barrier()
            flush()
    finally:
        plugin_manager.unregister(observer)

    (record,) = caplog.records
    assert "rounds of rank 0 are missing in the trace" in record.getMessage()
    assert str(tmp_path / "taken") in record.getMessage()


@pytest.mark.usefixtures("observer")
def test_a_file_that_is_deleted_is_begun_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_file, "READ_CLOCKS_EVERY_NS", 0)
    barrier = Alone()
    barrier.execute_barrier()
    flush()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    barrier.execute_barrier()

    start, *_ = lines_in(folder)
    assert isinstance(start, TraceStart)
    assert start.before == 1
    assert rounds_in(folder) == [2]


# --- in processes that can be killed and forked ---------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Iterator[RankProcesses]:
    with RankProcesses(1) as processes:
        yield processes


@pytest.fixture
def process(processes: RankProcesses) -> RankProcesses:
    processes.refresh()
    return processes


class Warnings(logging.Handler):
    """Counts what is logged."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def observe(rank: int, folder: Path) -> None:
    state["observer"] = TraceObserver(folder)
    plugin_manager.register(state["observer"])
    state["barrier"] = Alone()


def stop_observing(rank: int) -> None:
    observer = state.pop("observer")
    plugin_manager.unregister(observer)
    observer.close()


def go_on_and_on(rank: int, progress: Path) -> None:
    with progress.open("ab", buffering=0) as file:
        while True:
            state["barrier"].execute_barrier()
            file.write(b".")


def test_a_killed_rank_has_written_its_rounds_but_for_the_last(
    process: RankProcesses, folder: Path, tmp_path: Path
) -> None:
    progress = tmp_path / "progress"
    process.run_all(observe, folder)
    process.start(0, go_on_and_on, progress)
    wait_until(lambda: folder.exists() and len(rounds_in(folder)) > 1000, "rounds are in the file")
    process.kill(0)

    rounds = rounds_in(folder)
    assert rounds == list(range(1, len(rounds) + 1))
    assert len(rounds) - progress.stat().st_size <= 1


def go_once_and_hang(rank: int) -> None:
    state["barrier"].execute_barrier()
    time.sleep(END_SECS)  # until it is killed


def test_a_round_is_written_although_no_other_follows(process: RankProcesses, folder: Path) -> None:
    process.run_all(observe, folder)
    process.start(0, go_once_and_hang)
    wait_until(lambda: folder.exists() and rounds_in(folder) == [1], "the round is in the file")
    process.kill(0)

    assert rounds_in(folder) == [1]


def fill_the_disk(rank: int) -> list[int]:
    """Go through rounds, of which those in the middle find no room.

    Returns:
        How many warnings were logged: before, while and after the disk was full.
    """
    warnings = Warnings()
    logging.getLogger("barrier_core").addHandler(warnings)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    trace_file.RETRY_AFTER_NS = 0
    counts = []
    for limit in (most, 4000, most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        for _ in range(100):
            state["barrier"].execute_barrier()
        flush()
        counts.append(warnings.count)
    return counts


def test_a_full_disk_costs_the_rounds_that_find_no_room(
    process: RankProcesses, folder: Path
) -> None:
    process.run_all(observe, folder)
    (warnings,) = process.run_all(fill_the_disk)
    process.run_all(stop_observing)

    assert warnings == [0, 1, 1]
    (path,) = folder.iterdir()
    whole = [line for line in path.read_bytes().split(b"\n") if line.endswith(b"]")]
    lines = [msgspec.json.decode(line, type=Line) for line in whole]
    rounds = passed(lines)
    assert rounds[:50] == list(range(1, 51))
    assert rounds[-100:] == list(range(201, 301))
    starts = [line for line in lines if isinstance(line, TraceStart)]
    assert starts[-1].before == 200


def fork_and_go_on(rank: int) -> int:
    state["barrier"].execute_barrier()
    child = os.fork()
    if not child:
        create_barrier("local", global_rank=0, global_world_size=1).execute_barrier()
        flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    state["barrier"].execute_barrier()
    return status


def test_a_forked_child_has_a_file_of_its_own(process: RankProcesses, folder: Path) -> None:
    process.run_all(observe, folder)
    assert process.run_all(fork_and_go_on) == [0]
    process.run_all(stop_observing)

    files = [lines_of(path) for path in folder.iterdir()]
    assert sorted(map(passed, files)) == [[1], [1, 2]]
    assert len({lines[0].pid for lines in files if isinstance(lines[0], TraceStart)}) == 2


def test_the_environment_turns_it_on(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from barrier_core import create_barrier\n"
        "with create_barrier('local', global_rank=0, global_world_size=1) as barrier:\n"
        "    barrier.execute_barrier(tag='traced')\n"
        "print('barrier_core.observers.trace_observer' in sys.modules)\n"
    )

    def run(**environ: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()

    assert run() == "False"
    assert run(BARRIER_TRACE_DIR=str(tmp_path / "traces")) == "True"
    *_, last = lines_in(tmp_path / "traces")
    assert isinstance(last, PassedRound)
    assert last.tag == "traced"
