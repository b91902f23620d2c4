"""The report as one HTML file that needs nothing else: no network, no server, no library."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from barrier_report.files import written
from barrier_report.model import DetailedRound, Report

# These keep the page of a job of 100,000 ranks at a few megabytes. Lists come costliest first, so
# that what is left out costs least; the page says how many there are.
_MOST_ROWS = 1000
_MOST_CHARACTERS = 2000

_SCRIPTS = ("base.js", "overview.js", "round.js", "trend.js", "report.js")


def write_page(report: Report, path: Path) -> None:
    """Write the page to a file, which is there whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    page = render_page(report).encode()
    with written(path) as file:
        file.write(page)


def render_page(report: Report) -> str:
    """Return the page's HTML. What comes from the traces is data in it, never markup."""
    script = "\n".join(_template(name) for name in _SCRIPTS)
    parts = {
        "style": _template("report.css"),
        "script": script,
        # The browser executes this script and no other, even if the name of a host is a script.
        "script-hash": _hash_of(script),
        "data": _as_json(report),
    }
    # In one pass: what has been put in is not searched again.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], _template("report.html"))


def _template(name: str) -> str:
    folder = resources.files("barrier_report") / "template"
    return (folder / name).read_text(encoding="utf-8")


def _hash_of(script: str) -> str:
    """Return what allows an inline script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _as_json(report: Report) -> str:
    """Return what the scripts read; safe inside of a script element."""
    drawn = {*report.heat.ranks, *(_last_rank(round_) for round_ in report.detail)}
    costly = report.ranks[:_MOST_ROWS]
    others = [rank for rank in report.ranks[_MOST_ROWS:] if rank.rank in drawn]
    outcomes = sorted({rank.outcome for round_ in report.detail for rank in round_.ranks})
    number_of = {outcome: number for number, outcome in enumerate(outcomes)}
    data = {
        "source": report.source,
        "start": report.start,
        "end": report.end,
        "rounds": report.rounds,
        "failed": report.failed,
        "world_size": report.world_size,
        "cost_secs": report.cost_secs,
        "ranks": _table([*costly, *others], len(report.ranks)),
        "hosts": _table(report.hosts[:_MOST_ROWS], len(report.hosts)),
        "tags": _table(report.tags[:_MOST_ROWS], len(report.tags)),
        "barriers": _table(report.barriers, len(report.barriers)),
        "failures": _table(report.failures[:_MOST_ROWS], len(report.failures)),
        "clocks": _table(report.clocks[:_MOST_ROWS], len(report.clocks)),
        "trend": _table(report.trend, len(report.trend)),
        "heat": msgspec.structs.asdict(report.heat),
        "outcomes": outcomes,
        "detail": [_compact_round(round_, number_of) for round_ in report.detail],
        "notes": report.notes[:_MOST_ROWS],
    }
    text = msgspec.json.encode(_compact(data)).decode()
    # In JSON these stand in strings only. Without them no tag, comment or entity can begin.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table(rows: Sequence[msgspec.Struct], total: int) -> dict[str, object]:
    """Name the columns once instead of in every row."""
    return {
        "columns": rows[0].__struct_fields__ if rows else [],
        "rows": [msgspec.structs.astuple(row) for row in rows],
        "total": total,
    }


def _compact_round(round_: DetailedRound, number_of: dict[str, int]) -> dict[str, object]:
    """Give each rank as rank, arrived, left and the outcome's index, in one flat list."""
    flat: list[float] = []
    for rank in round_.ranks:
        flat += (rank.rank, rank.arrived, rank.left, number_of[rank.outcome])
    return {
        **msgspec.structs.asdict(round_),
        "ranks": flat,
    }


def _last_rank(round_: DetailedRound) -> int | None:
    return max(round_.ranks, key=lambda rank: rank.arrived).rank if round_.ranks else None


def _compact(value: object) -> object:
    """Round times to microseconds, and shorten texts that are too long to read."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str):
        # The name of a folder may have bytes that are no text.
        text = value.encode(errors="replace").decode()
        return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_compact(item) for item in value]
    return value
