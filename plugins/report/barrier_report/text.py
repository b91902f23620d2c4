"""The report in the terminal: one screen that says who is late."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from barrier_core.plugin_api import printable
from barrier_report.model import Failure, HostCost, RankCost, Report, TagCost

C = TypeVar("C", RankCost, HostCost, TagCost)

_FAILURES = 3
_NOTES = 5
_MOST_CHARACTERS = 4000
"""Of one line or cell: as many as a rank writes of a verdict."""


def show(what: RenderableType = "") -> None:
    """Write to stdout: in colour and wrapped on a terminal, plainly into a pipe."""
    console = Console(highlight=False, emoji=False)
    # Into a pipe, a message goes on one line, where it can be searched for.
    console.print(what, soft_wrap=isinstance(what, Text) and not console.is_terminal)


def plain(text: str, style: str = "") -> Text:
    """Return a text on one line, in which square brackets mean square brackets."""
    if len(text) > _MOST_CHARACTERS:
        text = text[:_MOST_CHARACTERS] + "…"
    return Text(printable(text), style)


def show_report(report: Report, top: int) -> None:
    """Write the report to stdout; of each list at most ``top`` lines."""
    report = _with_short_hosts(report)
    show(plain(_summary(report)))
    show(plain(_verdict(report), "bold"))
    if report.cost_secs:
        show()
        _show_ranks(report, top)
        if len(report.hosts) > 1:
            show()
            _show_hosts(report, top)
        show()
        _show_tags(report, top)
    if report.failures:
        show()
        show(plain("FAILED ROUNDS", "bold"))
        for failure in report.failures[-_FAILURES:]:
            show(_failure(failure))
        if len(report.failures) > _FAILURES:
            show(plain(f"and {len(report.failures) - _FAILURES} before"))
    show()
    show(plain(_clocks(report)))
    for note in report.notes[:_NOTES]:
        show(plain(f"Note: {note}"))
    if len(report.notes) > _NOTES:
        show(plain(f"and {len(report.notes) - _NOTES} more notes, which --json shows"))


def _with_short_hosts(report: Report) -> Report:
    """Leave out the domains of hosts, if the names still differ without them."""
    short = {host.host: host.host.partition(".")[0] for host in report.hosts}
    if len(set(short.values())) < len(short) or any(name.isdigit() for name in short.values()):
        return report
    replace = msgspec.structs.replace
    return replace(
        report,
        ranks=[replace(rank, host=short[rank.host]) for rank in report.ranks],
        hosts=[replace(host, host=short[host.host]) for host in report.hosts],
    )


def _summary(report: Report) -> str:
    text = f"{report.rounds:,} rounds of {report.world_size} ranks on {len(report.hosts)} "
    text += "host" if len(report.hosts) == 1 else "hosts"
    text += f" in {duration(report.end - report.start)}"
    return text + (f", {report.failed} of them failed" if report.failed else ", none failed")


def _verdict(report: Report) -> str:
    if not report.cost_secs:
        return "No round can be charged to a rank."
    worst = report.ranks[0]
    share = report.cost_secs / (report.world_size * max(report.end - report.start, 1e-9))
    return (
        f"Ranks have waited {duration(report.cost_secs)} for the last to come ({share:.1%} of the "
        f"job's time), {_share(worst.cost_secs, report)} of it for rank {worst.rank} ({worst.host})"
    )


def _show_ranks(report: Report, top: int) -> None:
    table = _table("RANK", "HOST", "COST", "SHARE", "LAST IN", "MEDIAN LATE", "P99", "MAX")
    for rank in _worth_showing(report.ranks[:top]):
        table.add_row(
            str(rank.rank),
            plain(rank.host),
            duration(rank.cost_secs),
            _share(rank.cost_secs, report),
            f"{rank.times_last:,}",
            duration(rank.median_lateness_secs),
            duration(rank.p99_lateness_secs),
            duration(rank.max_lateness_secs),
        )
    show(table)


def _show_hosts(report: Report, top: int) -> None:
    table = _table("HOST", "RANKS", "COST", "SHARE", "LAST IN", "MEDIAN LATE", "CLOCK OFF BY")
    for host in _worth_showing(report.hosts[:top]):
        table.add_row(
            plain(host.host),
            plain(host.ranks),
            duration(host.cost_secs),
            _share(host.cost_secs, report),
            f"{host.times_last:,}",
            duration(host.median_lateness_secs),
            duration(host.clock_offset_secs),
        )
    show(table)


def _show_tags(report: Report, top: int) -> None:
    table = _table("TAG", "ROUNDS", "COST", "SHARE", "MEDIAN SPREAD", "MOSTLY RANK")
    for tag in _worth_showing(report.tags[:top]):
        table.add_row(
            plain(tag.tag or "(none)"),
            f"{tag.rounds:,}",
            duration(tag.cost_secs),
            _share(tag.cost_secs, report),
            duration(tag.median_spread_secs),
            "-" if tag.worst_rank is None else str(tag.worst_rank),
        )
    show(table)


def _worth_showing(costs: Iterable[C]) -> list[C]:
    return [cost for cost in costs if cost.cost_secs]


def _failure(failure: Failure) -> Text:
    return plain(f"{failure.message} [raised on rank {failure.raised_on}]")


def _clocks(report: Report) -> str:
    fitted = [clock for clock in report.clocks if clock.rounds]
    if len(report.clocks) == 1:
        return "Clocks: there is one host, so times can be compared as they are"
    if not fitted:
        return "Clocks: no round passed, so the clocks of the hosts are taken as they are"
    if len(fitted) == len(report.clocks) and not any(clock.p99_error_secs for clock in fitted):
        return "Clocks: all hosts are on one machine, so times can be compared as they are"
    worst = max(fitted, key=lambda clock: clock.p99_error_secs)
    return (
        f"Clocks: aligned by {max(clock.rounds for clock in fitted):,} releases to within "
        f"{duration(max(clock.median_error_secs for clock in fitted))} (99 % of them: "
        f"{duration(worst.p99_error_secs)}); differences below that say nothing"
    )


def duration(seconds: float) -> str:
    """Write seconds with a unit that suits them: ``1.2 ms``, ``3 min 5 s``, ``2.1 days``."""
    size = abs(seconds)
    if size < 1e-3:
        return f"{round(seconds * 1e6)} us"
    if size < 1:
        return f"{seconds * 1e3:.3g} ms"
    if size < 120:
        return f"{seconds:.1f} s"
    if size < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if size < 172800 else f"{seconds / 86400:.1f} days"


def _share(cost: float, report: Report) -> str:
    return f"{cost / report.cost_secs:.0%}" if report.cost_secs else "-"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        left = heading in ("HOST", "RANKS", "TAG") or heading == headings[0]
        table.add_column(heading, overflow="fold", justify="left" if left else "right")
    return table
