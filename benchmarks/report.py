"""What is made of the measurements: a JSON file, and from that the tables and the plot."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contenders import LIMIT, SEED
from benchmarks.growth import Growth
from benchmarks.overhead import Overhead
from benchmarks.rounds import Blocks, Results

Tree = dict[str, Any]
"""All figures, as in the JSON file."""

_VERSIONS_OF = (
    "barrier-core",
    "torch",
    "torch-checkpointing",
    "jaxlib",
    "mpich",
    "mpi4py",
    "pluggy",
    "msgspec",
    "importlib-metadata",
)
_COMPARED = (
    ("tcp_store", SEED),
    ("tcp_store", "store_barrier"),
    ("tcp_store", LIMIT),
    ("dist_barrier", "dist_collective"),
)


def as_tree(
    results: Results, overhead: Overhead | None, growth: Growth | None, *, cores_awake: bool
) -> Tree:
    """Return everything as it goes into the JSON file."""
    return {
        "machine": {**machine(), "cores_awake": cores_awake},
        "micros_per_barrier": {
            str(size): {name: _row(blocks) for name, blocks in found.items()}
            for size, found in results.items()
        },
        "overhead_micros": None if overhead is None else asdict(overhead),
        "growth": None if growth is None else asdict(growth),
    }


def machine() -> dict[str, Any]:
    """Say what this was measured on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else ""
    versions = {}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpus": os.cpu_count(),
        "model": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "versions": versions,
    }


def _row(blocks: Blocks) -> dict[str, Any]:
    if blocks.skipped is not None:
        return {"title": blocks.title, "skipped": blocks.skipped}
    return {
        "title": blocks.title,
        "has_network": blocks.has_network,
        "best": min(blocks.micros),
        "median": statistics.median(blocks.micros),
        "worst": max(blocks.micros),
        "rank_cpu": min(blocks.rank_cpu),
        "server_cpu": min(blocks.server_cpu),
        "in_turn": blocks.in_turn,
        "blocks": [round(micros, 1) for micros in blocks.micros],
    }


def write_json(tree: Tree, path: Path) -> None:
    """Write the JSON file; lists of numbers in one line each."""
    text = json.dumps(tree, indent=1)
    path.write_text(
        re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"
    )


def as_tables(tree: Tree) -> str:
    """Return Markdown: what a round takes, what CPU time that is, and what is like what."""
    rows = tree["micros_per_barrier"]
    tables = {
        "microseconds per barrier: best / median block, x seed": lambda found, name: _times(
            found[name], found.get(SEED)
        ),
        "CPU microseconds per barrier: a rank / the server": lambda found, name: _cpu(found[name]),
    }
    names = list(next(iter(rows.values())))
    texts = [
        _table(rows, title, {_title(rows, name): name for name in names}, cell)
        for title, cell in tables.items()
    ]
    pairs = {
        f"{_title(rows, mine)} / {_title(rows, other)}": (mine, other)
        for mine, other in _COMPARED
        if mine in names and other in names
    }
    texts.append(
        _table(
            rows, "ratio of the bests / of the blocks, median / of rounds in turn", pairs, _ratios
        )
    )
    return "\n\n".join(texts)


def _table(rows: Tree, title: str, lines: dict[str, Any], cell: Callable[[Tree, Any], str]) -> str:
    texts = [
        [title, *(f"{size} ranks" for size in rows)],
        ["---"] * (len(rows) + 1),
        *([name, *(cell(found, key) for found in rows.values())] for name, key in lines.items()),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in texts)


def _title(rows: Tree, name: str) -> str:
    title: str = next(iter(rows.values()))[name]["title"]
    return title


def _times(row: Tree, seed: Tree | None) -> str:
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    times = f"{row['best']:,.0f} / {row['median']:,.0f}"
    return (
        times if seed is None or "skipped" in seed else f"{times}, {row['best'] / seed['best']:.2f}"
    )


def _cpu(row: Tree) -> str:
    if not row.get("rank_cpu"):
        return "not measured"
    return f"{row['rank_cpu']:.0f} / {row['server_cpu']:.0f}"


def _ratios(found: Tree, pair: tuple[str, str]) -> str:
    mine, other = found[pair[0]], found[pair[1]]
    if "skipped" in mine or "skipped" in other:
        return "skipped"
    # Each block with the other's of the same turn, which ran next to it.
    by_block = [ours / theirs for ours, theirs in zip(mine["blocks"], other["blocks"], strict=True)]
    text = f"{mine['best'] / other['best']:.2f} / {statistics.median(by_block):.2f}"
    in_turn = mine["in_turn"].get(pair[1])
    return text if in_turn is None else f"{text} / {in_turn:.2f}"


def write_plot(tree: Tree, path: Path) -> str | None:
    """Draw the best blocks over the number of ranks. Returns why not, where it cannot."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        return f"no plot: {error}"
    rows = tree["micros_per_barrier"]
    sizes = [int(size) for size in rows]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, first in next(iter(rows.values())).items():
        if "skipped" not in first:
            axes.plot(
                sizes,
                [found[name]["best"] for found in rows.values()],
                label=first["title"],
                marker="o",
                markersize=4,
                linewidth=3 if "(ours" in first["title"] else 1.2,
                linestyle=":" if name == LIMIT or not first["has_network"] else "-",
            )
    axes.set(xscale="log", yscale="log", xlabel="ranks on one host")
    axes.set_ylabel("microseconds per barrier, best block")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return None
