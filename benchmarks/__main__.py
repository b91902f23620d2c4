"""Measure all contenders side by side: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import growth, overhead, report, rounds
from benchmarks.awake import cores_awake
from benchmarks.contenders import BY_NAME, NAMES
from tests.support import by_name

_HERE = Path(__file__).parent


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Barriers side by side.")
    parser.add_argument("--smoke", action="store_true", help="only check that everything works")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="CONTENDER")
    by_name.add_options(parser, None, "to be measured beside them")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--blocks", type=int, default=60, help="blocks of rounds per contender")
    parser.add_argument("--block-secs", type=float, default=0.075)
    parser.add_argument(
        "--rounds-only", action="store_true", help="leave out overhead and large worlds"
    )
    parser.add_argument(
        "--let-cores-sleep",
        action="store_true",
        help="do not keep idle cores awake, where that is permitted at all",
    )
    parser.add_argument("--json", type=Path, default=_HERE / "results.json")
    parser.add_argument("--plot", type=Path, default=_HERE / "results.png")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="JSON",
        help="measure nothing: tables and plot of a former run",
    )
    options = parser.parse_args()
    # It may be installed here, and is no part of a barrier; two contenders register it themselves.
    os.environ.setdefault("BARRIER_OBSERVERS_BLOCK", "opentelemetry")
    if options.backend:
        # The processes of the ranks read it, as those of a job do.
        os.environ["BARRIER_TYPE"] = options.backend
        for key, value in options.arguments:
            os.environ[f"BARRIER_ARG_{key.upper()}"] = value
        options.only = [*options.only, BY_NAME + options.backend]
    tree = json.loads(options.report.read_text()) if options.report else _measure(options)
    if not options.report:
        report.write_json(tree, options.json)
    print(report.as_tables(tree))
    trouble = report.write_plot(tree, options.plot)
    print(f"\n{trouble or f'{options.plot.name} shows it'}")


def _measure(options: argparse.Namespace) -> report.Tree:
    if options.smoke:
        plan = rounds.Plan(options.only, [2], blocks=2, block_secs=0.01, shared_server=True)
    else:
        plan = rounds.Plan(options.only, options.ranks, options.blocks, options.block_secs)
    with show_progress() as progress, cores_awake(not options.let_cores_sleep) as awake:
        if not awake:
            progress("idle cores may go to sleep: wake-ups may take many times as long")
        found = rounds.measure(plan, progress)
        extra = grown = None
        if options.smoke:
            progress("overhead of the framework")
            extra = overhead.measure(blocks=2, calls=100, interpreters=1)
            grown = growth.measure([2, 4], barriers=8, storm=None, abort=None, progress=progress)
        elif not options.rounds_only:
            progress("overhead of the framework")
            extra = overhead.measure(blocks=15, calls=20_000, interpreters=15)
            sizes = [16, 32, 64, 128, 256, 512]
            grown = growth.measure(
                sizes, barriers=16_384, storm=(512, 10.0), abort=999, progress=progress
            )
    return report.as_tree(found, extra, grown, cores_awake=awake)


@contextmanager
def show_progress() -> Iterator[Callable[[str], None]]:
    """Show what is being done: in one line on a terminal, else in a line each."""
    if not sys.stderr.isatty():
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


if __name__ == "__main__":
    main()
