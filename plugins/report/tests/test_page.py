"""The report's page: one file that loads nothing, and in which no text of a job becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from barrier_report.page import render_page, write_page
from plugins.report.tests.reports import HOSTILE, LATE_RANK, RANKS, a_large_report, a_report


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("an older report")

    write_page(a_report(), path)

    assert path.read_text(encoding="utf-8") == render_page(a_report())
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "report.html"
    folder.mkdir()

    with pytest.raises(OSError, match=re.escape("report.html")):
        write_page(a_report(), folder)

    assert list(tmp_path.iterdir()) == [folder]


def test_the_page_refers_to_nothing_outside_of_it() -> None:
    page = render_page(a_report())

    assert not re.search(r"https?:|//[a-z]+\.|@import|\ssrc=|\bfetch\b|XMLHttp", page)
    assert set(re.findall(r'href="([^"#]*)', page)) == {"", "data:,"}


def test_no_script_but_the_pages_own_may_run() -> None:
    page = render_page(a_report())

    script = re.findall(r"<script>(.*?)</script>", page, re.S)[0]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; " in page
    assert f"; script-src 'sha256-{allowed}'\"" in page


def test_the_data_is_in_the_page_with_the_columns_named_once() -> None:
    data = data_of(render_page(a_report()))

    assert data["world_size"] == RANKS
    worst = dict(zip(data["ranks"]["columns"], data["ranks"]["rows"][0], strict=True))
    assert (worst["rank"], worst["host"], worst["cost_secs"]) == (LATE_RANK, "gpu-1", 280.0)
    assert data["outcomes"] == ["dead", "passed"]
    assert data["detail"][0]["ranks"][:4] == [0, -2.0, 0.0002, 1]


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "<!--", "<!--<script>", "]]>", "</SCRIPT >", "&quot;", "\\u003c", "{{style}}", "\0"],
)
def test_a_text_that_looks_like_markup_is_data(text: str) -> None:
    failure = msgspec.structs.replace(a_report().failures[0], message=text, tag=text)

    page = render_page(a_report(failures=[failure], source=text, notes=[text]))

    assert len(re.findall("(?i)<script", page)) == len(re.findall("(?i)</script", page)) == 2
    assert page.count("<!--") == 0
    assert data_of(page)["notes"] == [text]
    assert text in data_of(page)["failures"]["rows"][0]


def test_a_folder_whose_name_is_no_text_can_be_shown() -> None:
    assert data_of(render_page(a_report(source="/tmp/\udcff")))["source"] == "/tmp/?"


def test_a_very_long_text_is_shortened() -> None:
    (note,) = data_of(render_page(a_report(notes=["x" * 100_000])))["notes"]

    assert note == "x" * 2000 + "…"


def test_the_page_of_the_largest_report_stays_below_five_megabytes() -> None:
    page = render_page(a_large_report())

    assert len(page.encode()) < 5_000_000
    data = data_of(page)
    assert data["ranks"]["total"] == 100_000
    # The host of every rank that is drawn is known.
    known = {row[0] for row in data["ranks"]["rows"]}
    assert {*data["heat"]["ranks"], 99_999} <= known
