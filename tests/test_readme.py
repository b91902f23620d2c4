"""What the README and the other pages tell a reader to type works, as it is printed.

The tutorials at the end of CONTRIBUTING.md are run by `test_observer_tutorial.py`,
`test_command_tutorial.py` and, step by step, by `test_new_plugin.py`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from barrier_core import BarrierConfig, RankStatus
from barrier_core.discovery.registry import registry
from barrier_core.verdict import describe_missing, describe_round
from tests.support.environments import ROOT
from tests.support.ports import free_port
from tests.support.torch_ranks import shared_ranks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BIN = Path(sys.executable).parent
LIMIT_SECS = 100
TUTORIALS = "## How to write an observer\n"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md", "plugins/*/README.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
WHAT_TO_DO = (
    "nothing in tests/test_readme.py runs it. Add a rule there that does, as a reader would; only "
    "what a program prints may stay without one, in a ```text block"
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Where it is, and what begins there."""
        return f"{self.page.relative_to(ROOT)} line {self.line}: {self.text.splitlines()[0]}"


def text_of(page: Path) -> str:
    """The page without the tutorials, which other tests run."""
    return page.read_text().partition(TUTORIALS)[0]


def blocks_of(page: Path) -> list[Block]:
    text = text_of(page)
    return [
        Block(page, text[: found.start()].count("\n") + 2, found[1], found[2])
        for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def commands_in(page: Path) -> list[str]:
    """What a page tells the reader to type: in console blocks, and in the running text."""
    console = [block for block in blocks_of(page) if block.language == "console"]
    typed = [line.removeprefix("$ ") for block in console for line in block.text.splitlines()]
    outside = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:srun )?barrier [^`]+|make [^`]+|pip install [^`]+)`", outside)
    return typed + [" ".join(command.split()) for command in inline]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = sorted({(command, page) for page in PAGES for command in commands_in(page)})


@pytest.fixture
def environment() -> dict[str, str]:
    """What a reader has set, whose job of two ranks meets at a port that is free."""
    theirs = "RANK$|WORLD_SIZE$|LOCAL_|MASTER_|OMPI_|PMI_|SLURM_|TORCHELASTIC_|BARRIER_|FORCE_COLOR"
    return {
        **{name: value for name, value in os.environ.items() if not re.match(theirs, name)},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "BARRIER_ARG_MASTER_ADDRESS": "127.0.0.1",
        "BARRIER_ARG_TCPSTORE_PORT": str(free_port()),
    }


def run(
    command: Sequence[str | Path], environment: dict[str, str], cwd: Path, ranks: int = 1
) -> str:
    """Run a command, as so many ranks that Slurm has started; return what the first one printed."""
    place = [{}] if ranks == 1 else [{"SLURM_PROCID": str(rank)} for rank in range(ranks)]
    processes = [
        subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, **({} if ranks == 1 else {"SLURM_NTASKS": str(ranks)}), **rank},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in place
    ]
    try:
        results = [process.communicate(timeout=LIMIT_SECS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (output, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, f"{command}: {output}{errors}"
    return results[0][0]


# Every block has a language, and something that runs it.


def check_is_run(block: Block) -> None:
    """Fail unless there is something in this file that runs a block."""
    if block.language == "console":  # each line of it, below
        known = all(line.startswith("$ ") for line in block.text.splitlines())
    elif block.language == "python":
        known = block.text.startswith(tuple(SNIPPETS))
    elif block.language == "toml":
        known = block.text.startswith(("[barrier]", "# barrier.toml"))
    else:
        known = block.language == "text"
    if not known:
        pytest.fail(f"{block.name}: {WHAT_TO_DO}", pytrace=False)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.name for block in BLOCKS])
def test_a_block_is_run_by_a_test(block: Block) -> None:
    check_is_run(block)


@pytest.mark.parametrize("language", ["python", "toml", "console", "sh", ""])
def test_a_block_that_nothing_runs_is_found(language: str) -> None:
    block = Block(ROOT / "README.md", 7, language, "[no]\nsuch = 'thing'\n")

    with pytest.raises(pytest.fail.Exception, match=r"README.md line 7: \[no\]: nothing in "):
        check_is_run(block)


def test_the_pages_have_blocks() -> None:
    assert len(BLOCKS) > 10
    assert {page.name for page in PAGES} >= {"README.md", "CONTRIBUTING.md"}


# Commands.


@pytest.mark.parametrize(("command", "page"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_works(
    command: str, page: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    in_a_job = {**environment, "BARRIER_TYPE": "tcp_store"}
    match shlex.split(command, comments=True):
        case ["make", target]:  # run elsewhere: they take minutes, and `make test` runs this
            assert re.search(rf"^{target}: .*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", *what]:
            check_installable(what, page.parent)
        case [".venv/bin/pytest" | "pytest", *arguments]:
            paths = [page.parent / each for each in arguments if "/" in each]
            assert all(path.exists() for path in paths)
        case ["python", script] | ["sudo", ".venv/bin/python", script]:  # by the example's tests
            assert (ROOT / script).is_file()
        case ["torchrun", *_, script, _]:  # the same
            assert (ROOT / script).is_file()
        case ["BARRIER_TRACE_DIR=traces", "torchrun", *_, "train.py"]:  # `barrier report`'s tests
            pass
        case ["barrier", "list"]:
            names = re.findall(r"^(\S+)", run_barrier("list", environment), re.MULTILINE)
            assert {"tcp_store", "opentelemetry"} <= set(names)
        case ["barrier", "info", barrier_type]:
            name = "tcp_store" if barrier_type == "TYPE" else barrier_type
            assert "timeout_secs: float" in run_barrier(f"info {name}", environment)
        case ["barrier", "check", "-n", ranks, *options]:
            table = run_barrier(f"check -n {ranks} {shlex.join(options)}", environment)
            assert len(table.splitlines()) == 1 + int(ranks)
        case ["srun", "barrier", "wait", *options]:
            wait = [str(BIN / "barrier"), "wait", *options]
            assert run(wait, in_a_job, tmp_path, ranks=2) == ""
        case ["barrier", subcommand, *_]:
            # Of one that needs more than there is here, the options at least.
            told = run_barrier(f"{subcommand} --help", environment)
            assert all(option in told for option in re.findall(r"(?<= )--?[a-z-]+", command))
        case _:
            pytest.fail(f"{page.relative_to(ROOT)}: `{command}`: {WHAT_TO_DO}", pytrace=False)


def run_barrier(arguments: str, environment: dict[str, str]) -> str:
    return run([BIN / "barrier", *shlex.split(arguments)], environment, ROOT)


def check_installable(what: Sequence[str], folder: Path) -> None:
    """Check that a distribution of this repository has this name and these extras."""
    if what[0] == ".":  # from a clone
        assert all((folder / project / "pyproject.toml").is_file() for project in what)
        return
    wanted = what[-1]
    name, _, extra = wanted.removesuffix("]").partition("[")
    if what[0] == "-e":
        projects = [folder / name / "pyproject.toml"]
    else:
        projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    tables = [tomllib.loads(path.read_text())["project"] for path in projects]
    (table,) = [table for table in tables if what[0] == "-e" or table["name"] == name]
    assert not extra or extra in table["optional-dependencies"]


# Configs.

CONFIGS = [block for block in BLOCKS if block.language == "toml"]


@pytest.mark.parametrize("block", CONFIGS, ids=[block.name for block in CONFIGS])
def test_a_config_fits_the_backend_that_it_names(block: Block, tmp_path: Path) -> None:
    from barrier_core import RankInfo
    from barrier_core.discovery.arguments import bind_arguments

    path = tmp_path / "barrier.toml"
    path.write_text(block.text)

    config = BarrierConfig.from_file(path)

    assert config.barrier_type is not None
    bind_arguments(registry.get(config.barrier_type), config.barrier_args, RankInfo(0, 2))


def test_the_environment_overrides_the_file_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = re.findall(r"`(BARRIER_[A-Z_]+)=([^`]+)`", (ROOT / "README.md").read_text())
    monkeypatch.chdir(tmp_path)
    for name, value in said:
        monkeypatch.setenv(name, value)
    (tmp_path / "other.toml").write_text("[barrier]\nbarrier_type = 'tcp_store'\n")
    (tmp_path / "barrier.toml").write_text("[barrier]\nbarrier_type = 'local'\n")

    config = BarrierConfig.from_file("barrier.toml")

    assert [name for name, _ in said] == [
        "BARRIER_TYPE",
        "BARRIER_ARG_TIMEOUT_SECS",
        "BARRIER_CONFIG",
    ]
    assert config == BarrierConfig("dist_barrier", {"timeout_secs": "30"})


# Snippets.


def run_the_readmes(snippet: Block, environment: dict[str, str], folder: Path) -> None:
    """With the config before it, on two ranks; ``write`` is the reader's."""
    (config,) = [b for b in BLOCKS if b.page == snippet.page and b.language == "toml"]
    (folder / "barrier.toml").write_text(config.text)
    (folder / "job.py").write_text(f"def write(shard):\n    print(shard)\n\n\n{snippet.text}")

    output = run([sys.executable, "job.py"], environment, folder, ranks=2)

    assert output.split() == [str(shard) for shard in range(40)] * 3


def run_the_file_barriers(snippet: Block, environment: dict[str, str], folder: Path) -> None:
    """In its own directory, and with the backend registered instead of installed."""
    assert "/tmp/my-job" in snippet.text
    text = snippet.text.replace("/tmp/my-job", str(folder / "my-job"))
    registered = "from barrier_file import FileBarrier\nfrom barrier_core import register_barrier\n"
    (folder / "job.py").write_text(f"{registered}register_barrier(FileBarrier)\n{text}")

    run([sys.executable, "job.py"], {**environment, "PYTHONPATH": str(snippet.page.parent)}, folder)

    assert (folder / "my-job").is_dir()


def run_in_a_rank(rank: int, source: str, beside: Path, folder: Path) -> str:
    before = os.getcwd()
    os.chdir(folder)
    sys.path.insert(0, str(beside))
    try:
        names: dict[str, object] = {}
        exec(source, names)
        return str(names["writer_config"])
    finally:
        sys.path.remove(str(beside))
        os.chdir(before)


def run_the_clients(snippet: Block, environment: dict[str, str], folder: Path) -> None:
    """In a process that other tests use as well: what it imports takes seconds."""
    (folder / "barrier.toml").write_text("[barrier]\nbarrier_type = 'tcp_store'\n")

    made = shared_ranks().run(0, run_in_a_rank, snippet.text, snippet.page.parent, folder)

    assert "barrier_type='tcp_store'" in made


def run_the_opentelemetry_observers(
    snippet: Block, environment: dict[str, str], folder: Path
) -> None:
    """With providers of the reader's own, and a barrier after it."""
    providers = """
from barrier_core import create_barrier
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
"""
    after = """
with create_barrier("local", global_rank=0, global_world_size=1) as barrier:
    barrier.execute_barrier()
print([name for name, _ in plugin_manager.list_name_plugin() if "opentelemetry" in name])
"""
    given = snippet.text.replace("tracer_provider=...", "tracer_provider=TracerProvider()")
    given = given.replace("meter_provider=...", "meter_provider=MeterProvider()")
    (folder / "job.py").write_text(providers + given + after)

    output = run([sys.executable, "job.py"], environment, folder)

    assert output.strip() == "['observer opentelemetry']"


def run_the_reports(snippet: Block, environment: dict[str, str], folder: Path) -> None:
    """On the traces of a round that one rank went through alone."""
    before = """
from barrier_core import create_barrier

with create_barrier("local", global_rank=0, global_world_size=1) as barrier:
    barrier.execute_barrier()
"""
    run([sys.executable, "-c", before], {**environment, "BARRIER_TRACE_DIR": "traces"}, folder)

    assert run([sys.executable, "-c", snippet.text], environment, folder) == "0 0.0\n"


# What runs a snippet, by how it begins.
SNIPPETS: dict[str, Callable[[Block, dict[str, str], Path], None]] = {
    "from barrier_core import BarrierConfig, create_barrier_from_config": run_the_readmes,
    "from barrier_core import create_barrier\n": run_the_file_barriers,
    "from torch_checkpointing.checkpoint_writer import": run_the_clients,
    "from barrier_opentelemetry import": run_the_opentelemetry_observers,
    "from pathlib import Path\n\nfrom barrier_report import": run_the_reports,
}


@pytest.mark.parametrize("start", SNIPPETS)
def test_a_snippet_runs_as_it_is_printed(
    start: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (snippet,) = [block for block in BLOCKS if block.text.startswith(start)]

    SNIPPETS[start](snippet, environment, tmp_path)


# What programs print.


def test_the_line_at_the_top_is_what_a_job_logs() -> None:
    status = RankStatus(311, "alive", "gpu-38", 4121, "shard 12/40", 4.0)

    line = (
        f"{describe_round(118, 'save step=1200')} {describe_missing((status,), 512)} (after 30 s)"
    )

    assert f"```text\n{line}\n```" in (ROOT / "README.md").read_text()


def test_the_layout_names_what_is_there() -> None:
    (layout,) = [b for b in BLOCKS if b.page.name == "CONTRIBUTING.md" and b.language == "text"]
    named = [line.split()[0] for line in layout.text.splitlines()]

    missing = [name for name in named if not (ROOT / name.replace("<name>", "tcp_store")).is_dir()]

    assert missing == []
