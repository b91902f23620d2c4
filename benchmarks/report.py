"""What is made of the measurements: a table, a JSON file and a plot."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contenders import LIMIT
from benchmarks.growth import Growth
from benchmarks.overhead import Overhead
from benchmarks.rounds import Blocks, Results, seed_of

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


def as_tree(results: Results, overhead: Overhead | None, growth: Growth | None) -> dict[str, Any]:
    """Return everything as it goes into the JSON file."""
    return {
        "machine": machine(),
        "micros_per_barrier": {
            str(size): {name: _row(blocks, found) for name, blocks in found.items()}
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


def _row(blocks: Blocks, others: dict[str, Blocks]) -> dict[str, Any]:
    if blocks.skipped is not None:
        return {"title": blocks.title, "skipped": blocks.skipped}
    row: dict[str, Any] = {
        "title": blocks.title,
        "has_network": blocks.has_network,
        "best": blocks.best,
        "median": blocks.median,
        "worst": max(blocks.micros),
        "blocks": blocks.micros,
    }
    seed = seed_of(others)
    if seed is not None:
        row["to_seed_best"] = blocks.best / seed.best
        row["to_seed_by_block"] = blocks.ratio_to(seed)
    return row


def as_table(results: Results) -> str:
    """Return a Markdown table: best and median, and the two ratios to the seed."""
    sizes = list(results)
    lines = [
        "| microseconds per barrier: best / median, x seed by best / by block | "
        + " | ".join(f"{size} ranks" for size in sizes)
        + " |",
        "| --- |" + " --- |" * len(sizes),
    ]
    first = results[sizes[0]]
    for name in first:
        cells = [_cell(results[size][name], seed_of(results[size])) for size in sizes]
        lines.append(f"| {first[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(blocks: Blocks, seed: Blocks | None) -> str:
    if blocks.skipped is not None:
        return f"skipped: {blocks.skipped}"
    times = f"{blocks.best:,.0f} / {blocks.median:,.0f}"
    if seed is None:
        return times
    return f"{times}, {blocks.best / seed.best:.2f} / {blocks.ratio_to(seed):.2f}"


def write_json(tree: dict[str, Any], path: Path) -> None:
    """Write the JSON file."""
    path.write_text(json.dumps(tree, indent=1) + "\n")


def write_plot(results: Results, path: Path) -> str | None:
    """Draw the best blocks over the number of ranks. Returns why not, where it cannot."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        return f"no plot: {error}"
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    sizes = list(results)
    for name, blocks in results[sizes[0]].items():
        if blocks.skipped is None:
            ours = blocks.title.endswith(("(ours)", "(ours, gloo)"))
            axes.plot(
                sizes,
                [results[size][name].best for size in sizes],
                label=blocks.title,
                marker="o",
                linewidth=2.5 if ours else 1.2,
                linestyle=":" if name == LIMIT or not blocks.has_network else "-",
            )
    axes.set(xscale="log", yscale="log", xlabel="ranks on one host")
    axes.set_ylabel("microseconds per barrier, best block")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None
