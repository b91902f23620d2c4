"""``barrier check`` and ``barrier wait`` with a backend that goes wrong as it is told."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from barrier_core.cli.check import started_ranks as ranks
from barrier_core.cli.check.figures import Figures, count_last, p99
from tests.core.conftest import Site
from tests.support.command import Command, Outcome
from tests.support.environments import ROOT

PRETENDER = """
import os, signal, threading
from barrier_core import Barrier, BarrierSetupError, BrokenBarrierError, Capability
from barrier_core.verdict import Verdict

class Backend(Barrier):
    '''Waits for nobody.'''

    barrier_type = "pretender"
    capabilities = Capability.TIMEOUT

    def __init__(
        self, global_rank: int, global_world_size: int, fails: int = -1, killed: int = -1,
        stuck: int = -1, no_store: int = -1, raises: int = -1, says: bool = False,
    ) -> None:
        super().__init__(global_rank, global_world_size)
        self.plan = {fails: self.fail, killed: self.die, stuck: self.hang, raises: self.crash}
        self.says = says
        if no_store == global_rank:
            raise BarrierSetupError("there is no store")

    def _wait(self, number, timeout_secs, tag):
        if self.says:
            print(f"round {number} {tag!r} for {timeout_secs:g} s", flush=True)
        if number == 3:
            self.plan.get(self.rank_info.global_rank, lambda: None)()

    def fail(self):
        raise BrokenBarrierError(Verdict("abort", 3, "", 0, "no more paper"))

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        print("hangs", flush=True)
        threading.Event().wait()

    def crash(self):
        raise ZeroDivisionError

class OfTorch:
    barrier_type = "of_torch"

    def execute_barrier(self):
        pass
"""


@pytest.fixture(autouse=True)
def _pretender(globally: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed, and that no launcher has started these tests."""
    globally.install(
        "barrier-pretender",
        {"pretender": "pretending:Backend", "of_torch": "pretending:OfTorch"},
        modules={"pretending": PRETENDER},
    )
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name in os.environ:
        if re.match("RANK$|WORLD_SIZE$|OMPI_|PMI_|SLURM_", name):
            monkeypatch.delenv(name)


@pytest.fixture
def barrier(capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(capfd)


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher has started this process as one of two ranks."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


# --- who came last -------------------------------------------------------------------------------


def test_who_waits_least_came_last() -> None:
    by_rank = [[0.3, 0.1, 0.2], [0.1, 0.4, 0.5], [0.2, 0.9, 0.1]]

    assert count_last(by_rank) == {1: 1, 0: 1, 2: 1}


def test_p99_is_exceeded_by_one_in_a_hundred() -> None:
    assert p99([*range(200, 0, -1)]) == 198
    assert p99([7.0]) == 7.0


def test_no_rank_sends_more_than_the_last_thousand_rounds() -> None:
    figures = Figures.of("gpu-1", [*range(5000)])

    assert (figures.median, figures.p99) == (2499.5, 4949)
    assert figures.waits == [*range(4000, 5000)]


# --- barrier check -n ----------------------------------------------------------------------------


def test_check_starts_ranks_and_tells_of_each(barrier: Command) -> None:
    outcome = barrier("check", "-n", "2", "--type", "pretender", "--rounds", "20")

    assert (outcome.status, outcome.err) == (0, "")
    heading, *rows = outcome.out.splitlines()
    assert heading.split() == ["RANK", "HOST", "MEDIAN", "US", "P99", "US", "CAME", "LAST"]
    cells = [row.split() for row in rows]
    assert [row[0] for row in cells] == ["0", "1"]
    assert all(float(row[2]) <= float(row[3]) for row in cells)
    assert sum(int(row[4]) for row in cells) == 20


def test_check_reads_the_config_in_every_rank(
    barrier: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "barrier.toml"
    config.write_text("[barrier]\nbarrier_type = 'pretender'\nbarrier_args = {fails = 0}\n")
    check = ("check", "-n", "1", "--rounds", "5", "--config", str(config))

    assert barrier(*check).status == 1
    assert barrier(*check, "--arg", "fails=-1").status == 0
    monkeypatch.setenv("BARRIER_ARG_FAILS", "-1")
    assert barrier(*check).status == 0


def test_check_tells_what_ranks_say_alike_once(barrier: Command) -> None:
    arguments = ("--type", "pretender", "--arg", "fails=1", "--arg", "killed=0")

    outcome = barrier("check", "-n", "2", *arguments)

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("Error: the barrier failed\nrank 0: ")
    assert re.search(r"rank 0: the process \(pid \d+\) was ended by SIGKILL", outcome.err)
    assert (
        "rank 1: round 3 was aborted by rank 0: no more paper. "
        "Mend what that rank reports, then restart all ranks" in outcome.err
    )
    assert "Traceback" not in outcome.err


def test_check_ends_a_rank_that_still_waits_when_another_has_failed(
    barrier: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_GRACE_SECS", 0.2)
    arguments = ("--type", "pretender", "--arg", "stuck=0", "--arg", "no_store=1")

    outcome = barrier("check", "-n", "2", *arguments)

    assert (outcome.status, outcome.out) == (1, "")
    assert "rank 0: still waited when others had failed" in outcome.err
    assert "rank 1: there is no store" in outcome.err


def test_check_shows_where_a_backend_crashes(barrier: Command) -> None:
    outcome = barrier("check", "-n", "1", "--type", "pretender", "--arg", "raises=0")

    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.err
    assert re.search(r"rank 0: the process \(pid \d+\) exited with status 1", outcome.err)


def test_check_takes_a_class_of_torchs_own_contract(
    barrier: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARRIER_TYPE", "of_torch")

    assert barrier("check", "-n", "1").status == 0


def test_check_shows_its_progress_on_a_terminal_only(site: Site) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IMPATIENT, "check", "-n", "1", "--type", "pretender"]
    environ = {name: value for name, value in os.environ.items() if "COVERAGE" in name}
    environ |= {"PATH": os.environ["PATH"], "PYTHONPATH": f"{site.path}{os.pathsep}{ROOT}"}

    shown = subprocess.run(
        [*command, "--rounds", "7"], stdout=-1, stderr=theirs, env=environ, timeout=60, check=True
    )
    os.close(theirs)
    progress = os.read(ours, 10_000).decode()
    os.close(ours)

    assert "rounds 7/7" in progress
    assert progress.endswith("\r\x1b[K")  # the line is cleared
    assert shown.stdout.startswith(b"RANK ")


# At once, or seven rounds would be over before their number is shown.
IMPATIENT = """
from barrier_core.cli import main
from barrier_core.cli.check import figures
figures.SHOW_EVERY_SECS = 0.0
main(prog_name="barrier")
"""


@pytest.mark.usefixtures("one_of_two")
def test_check_does_not_start_ranks_in_a_rank(barrier: Command) -> None:
    outcome = barrier("check", "-n", "2", "--type", "pretender")

    assert outcome.status == 2
    assert "this process is rank 1 of 2 already: leave out -n, or the launcher" in outcome.err


# --- barrier check under a launcher --------------------------------------------------------------


@pytest.mark.usefixtures("one_of_two")
def test_without_a_store_a_rank_of_a_launcher_writes_one_line(barrier: Command) -> None:
    outcome = barrier("check", "--type", "pretender", "--rounds", "5")

    assert (outcome.status, outcome.err) == (0, "")
    assert re.fullmatch(
        rf"rank 1 of 2 on \S+ \(pid {os.getpid()}\): 5 rounds, "
        r"shortest \d+ us, median \d+ us, p99 \d+ us\n",
        outcome.out,
    )


@pytest.mark.usefixtures("one_of_two")
def test_without_a_store_rank_0_says_that_it_does_not_know_who_came_last(
    barrier: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")

    own_line, *more = barrier("check", "--type", "pretender", "--rounds", "5").out.splitlines()

    assert own_line.startswith("rank 0 of 2 on ")
    assert more[0].startswith("Which rank came last how often is not known: pretender has")


@pytest.mark.usefixtures("one_of_two")
def test_a_rank_of_a_launcher_ends_with_the_verdict(barrier: Command) -> None:
    outcome = barrier("check", "--type", "pretender", "--arg", "fails=1")

    assert (outcome.status, outcome.out) == (1, "")
    assert (
        outcome.err == "Error: round 3 was aborted by rank 0: no more paper. "
        "Mend what that rank reports, then restart all ranks\n"
    )


# --- barrier wait --------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_of_two")
def test_wait_arrives_once_with_tag_and_timeout(barrier: Command) -> None:
    arguments = ("--type", "pretender", "--arg", "says=true", "--tag", "set up", "--timeout", "7.5")

    outcome = barrier("wait", *arguments)

    assert outcome == Outcome(0, "round 1 'set up' for 7.5 s\n", "")


@pytest.mark.usefixtures("one_of_two")
def test_wait_says_nothing_when_it_has_passed(barrier: Command) -> None:
    assert barrier("wait", "--type", "pretender") == Outcome(0, "", "")
    assert barrier("wait", "--type", "of_torch") == Outcome(0, "", "")


@pytest.mark.usefixtures("one_of_two")
def test_wait_exits_3_if_there_is_no_barrier(barrier: Command, globally: Site) -> None:
    globally.install("barrier-broken", {"broken": "absent:Backend"})

    no_store = barrier("wait", "--type", "pretender", "--arg", "no_store=1")
    broken = barrier("wait", "--type", "broken")

    assert no_store == Outcome(3, "", "Error: there is no store\n")
    assert broken.status == 3
    assert "of barrier-broken 1.0 cannot be loaded" in broken.err


def test_wait_exits_130_when_it_is_interrupted(site: Site) -> None:
    site.install("waiting", {"waiting": "waiting:Backend"}, modules={"waiting": WAITING})
    environ = {name: value for name, value in os.environ.items() if "COVERAGE" in name}
    environ |= {"PATH": os.environ["PATH"], "RANK": "0", "WORLD_SIZE": "1"}
    environ["PYTHONPATH"] = f"{site.path}{os.pathsep}{ROOT}"
    command = [sys.executable, "-c", ATTENTIVE, "wait", "--type", "waiting"]

    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (130, "Error: interrupted\n")


# Where a shell has put the test run into the background, Ctrl-C is ignored from the start.
ATTENTIVE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from barrier_core.cli import main
main(prog_name="barrier")
"""

WAITING = """
import threading
from barrier_core import Barrier

class Backend(Barrier):
    barrier_type = "waiting"

    def _wait(self, number, timeout_secs, tag):
        print("waits", flush=True)
        threading.Event().wait()
"""


# --- wrong use of both ---------------------------------------------------------------------------

WRONG = {
    "no barrier": ([], "no barrier is chosen: give --config FILE, or --type TYPE"),
    "unknown": (["--type", "pretendre"], "Did you mean 'pretender'?"),
    "threads": (["--type", "local"], "one between threads of one process"),
    "no file": (["--config", "absent.toml"], "config file absent.toml does not exist"),
    "no value": (
        ["--type", "pretender", "--arg", "fails"],
        "--arg takes KEY=VALUE, and one",
    ),
    "no argument": (["--type", "pretender", "--arg", "fial=1"], "did you mean fails?"),
    "no number": (["--type", "pretender", "--arg", "fails=x"], "fails='x' does not fit"),
    "no such option": (["--tpye", "pretender"], "No such option"),
}


@pytest.mark.usefixtures("one_of_two")
@pytest.mark.parametrize("command", ["check", "wait"])
@pytest.mark.parametrize(("arguments", "fragment"), WRONG.values(), ids=WRONG)
def test_wrong_use_exits_2_and_says_why(
    barrier: Command, command: str, arguments: list[str], fragment: str
) -> None:
    outcome = barrier(command, *arguments)

    assert (outcome.status, outcome.out) == (2, "")
    assert fragment in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", ["check", "wait"])
def test_without_a_launcher_it_says_how_to_start_it(barrier: Command, command: str) -> None:
    outcome = barrier(command, "--type", "pretender")

    assert outcome.status == 2
    assert "Start it with torchrun, srun or mpirun" in outcome.err


@pytest.mark.usefixtures("one_of_two")
@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--type", "of_torch", "--timeout", "5"], "does not declare the capability 'timeout'"),
        (["--type", "pretender", "--timeout", "-1"], "timeout=-1.0 must be a positive"),
        (["--type", "pretender", "--tag", "x" * 501], "must be a text of at most 500"),
    ],
)
def test_wait_refuses_what_it_could_not_keep(
    barrier: Command, arguments: list[str], fragment: str
) -> None:
    outcome = barrier("wait", *arguments)

    assert outcome.status == 2
    assert fragment in outcome.err
