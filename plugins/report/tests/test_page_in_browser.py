"""What a browser makes of the report's page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from barrier_report.model import Report
from barrier_report.page import write_page
from plugins.report.tests.browser_page import Page
from plugins.report.tests.reports import (
    HOSTILE,
    LATE_RANK,
    RANKS,
    ROUNDS,
    a_large_report,
    a_report,
    a_slow_host,
    an_empty_report,
    one_rank,
)

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on this machine (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # As root there is no sandbox; /dev/shm is small in containers.
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as browser:
        yield browser


@pytest.fixture
def show(browser: Chrome, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Show a report. Whatever is done with it: the console stays empty, nothing is loaded."""
    shown: list[Page] = []

    def show(report: Report, **how: Any) -> Page:
        path = tmp_path / "report.html"
        write_page(report, path)
        page = Page(browser, path)
        page.console(), page.requests()  # of the test before
        page.open(**how)
        shown.append(page)
        return page

    yield show
    for page in shown:
        assert page.console() == []
        assert {url for url in page.requests() if not url.startswith("data:")} == {page.url}


def test_the_headline_says_who_is_to_blame_most(show: Callable[..., Page]) -> None:
    page = show(a_report())

    assert page.text("h1") == (
        "Rank 5 on gpu-1 was last in 20 of 40 rounds and cost 4 min 40 s of rank time."
    )
    assert page.ask("document.querySelector('h1').dataset.rank") == str(LATE_RANK)
    assert "Rank time lost 4 min 40 s" in page.text("#figures")
    assert "1 round failed." in page.text("#subline")


def test_the_late_rank_stands_out_in_the_heat_map(show: Callable[..., Page]) -> None:
    page = show(a_report())

    hot, cold = page.colour("--heat-4"), page.colour("--heat-0")

    assert page.pixel(LATE_RANK, 1) == hot
    assert page.pixel(LATE_RANK, 2) == cold  # it was late to every other round
    assert {page.pixel(rank, 1) for rank in range(RANKS) if rank != LATE_RANK} == {cold}
    assert page.ask("document.getElementById('heat').dataset.worstRank") == str(LATE_RANK)
    assert page.text("#heat-axes text.late") == f"▶ {LATE_RANK}"


def test_the_late_rank_stands_out_in_the_dark(show: Callable[..., Page]) -> None:
    page = show(a_report(), scheme="dark")

    assert sum(page.pixel(LATE_RANK, 1)) > sum(page.pixel(0, 1)) + 300


def test_the_late_rank_is_the_first_and_marked_row_of_the_table(show: Callable[..., Page]) -> None:
    page = show(a_report())

    first = "document.querySelector('#ranks tbody tr')"
    assert page.ask(f"[{first}.dataset.rank, {first}.className]") == [str(LATE_RANK), "worst"]
    widths = page.ask(
        "[...document.querySelectorAll('#ranks tr .bar i')].map((i) => i.style.width)"
    )
    assert widths[0] == "100%"
    assert float(widths[2].rstrip("%")) < 1


def test_a_slow_host_is_blamed_as_a_whole(show: Callable[..., Page]) -> None:
    page = show(a_slow_host())

    assert page.text("h1").startswith("Host gpu-0 (ranks 0-3) was last in 10 of 40 rounds")


def test_a_cell_tells_rank_host_and_lateness(show: Callable[..., Page]) -> None:
    page = show(a_report())

    told = page.point("#heat", x=1.5 / ROUNDS, y=(LATE_RANK + 0.5) / RANKS)

    assert told.startswith("rank 5 on gpu-1 up to 2 s late 1 min to 2 min")


def test_a_bar_tells_what_a_rank_did_in_the_round(show: Callable[..., Page]) -> None:
    page = show(a_report())  # and shows a round to which the late rank came last

    early = page.point("#round-chart [data-rank='2']")
    late = page.point(f"#round-chart [data-rank='{LATE_RANK}']")

    assert page.ask("document.querySelector('#round-chart g.late').dataset.rank") == str(LATE_RANK)
    assert "rank 2 on gpu-0 round 30 'save step=30' arrived" in early
    assert "waited 2 s outcome: passed" in early
    assert "the last to arrive arrived 2 s after the median" in late


def test_rounds_are_chosen_by_click_list_button_and_arrow_keys(show: Callable[..., Page]) -> None:
    page = show(a_report())
    chosen: list[str] = []

    def note() -> None:
        chosen.append(page.ask("document.getElementById('round').dataset.round"))

    page.point("#heat", x=33.5 / ROUNDS, press=True)
    note()
    page.press("#heat", "ArrowRight")
    note()
    page.press("#round", "ArrowLeft")
    note()
    page.click("#next")
    note()
    page.ask("(document.getElementById('rounds').value = '0')")
    page.ask("document.getElementById('rounds').dispatchEvent(new Event('change'))")
    note()

    assert chosen == ["34", "35", "34", "35", "30"]
    assert page.ask("document.getElementById('previous').disabled") is True


def test_ranks_of_a_round_can_be_put_in_order_of_arrival(show: Callable[..., Page]) -> None:
    page = show(a_report())

    page.click("#by-arrival")

    rows = page.ask("[...document.querySelectorAll('#round-chart g')].map((g) => g.dataset.rank)")
    assert rows == ["0", "1", "2", "3", "4", "6", "7", "5"]


def test_a_failed_round_shows_its_verdict_and_who_was_missing(show: Callable[..., Page]) -> None:
    page = show(a_report())

    verdict = page.text("#failures article")
    page.click("#failures article button")

    assert "was broken: rank 3 (gpu-0, pid 4003) dead" in verdict
    assert "missing 3 raised on ranks 0-2, 4-7 decided by rank 0 on gpu-0" in verdict
    assert page.ask("document.getElementById('round').dataset.round") == str(ROUNDS)
    assert "Failed: dead. Without a record: 1 rank (3)." in page.text("#round-text")
    assert page.ask("document.querySelectorAll('#round-chart .failed').length") == RANKS - 1
    assert page.ask("document.querySelector('#round-chart g.fail').dataset.rank") == "3"
    assert page.ask("document.querySelector('#round-chart g.late')") is None  # none of the others
    assert "no record of this round" in page.point("#round-chart [data-rank='3']")
    assert "failed (dead)" in page.text("#heat-axes .mark")
    marks = page.ask("[...document.querySelectorAll('#heat-axes .mark')].map((m) => m.textContent)")
    assert ["was missing" in mark for mark in marks] == [False, True]
    assert "rank 3 on gpu-0 was missing" in marks[1]


def test_the_trend_tells_a_stretch_of_rounds(show: Callable[..., Page]) -> None:
    page = show(a_report())

    told = page.point("#trend-chart", x=0.95)

    assert told.startswith("rounds 31 to 40 of the job")
    assert "cost 1 min 10 s, most of it by rank 5 on gpu-1" in told
    assert "spread 1 s (median), 5 s (largest)" in told


def test_a_table_is_sorted_by_a_click_and_shows_all_rows_when_asked(
    show: Callable[..., Page],
) -> None:
    ranks = a_report().ranks
    more = [msgspec.structs.replace(ranks[-1], rank=rank) for rank in range(RANKS, 30)]
    page = show(a_report(ranks=[*ranks, *more]))
    rows = "[...document.querySelectorAll('#ranks tbody tr')].map((row) => row.dataset.rank)"

    few = len(page.ask(rows))
    page.click("#ranks .more-rows")
    every = len(page.ask(rows))
    page.click("#ranks thead button")
    down = page.ask(rows)[:2]
    page.click("#ranks thead button")
    up = page.ask(rows)[:2]

    assert (few, every) == (12, 30)
    assert (down, up) == (["29", "28"], ["0", "1"])
    assert page.ask("document.querySelector('#ranks th').getAttribute('aria-sort')") == "ascending"


def test_hostile_text_stays_text(show: Callable[..., Page]) -> None:
    full = a_report()
    replace = msgspec.structs.replace
    page = show(
        a_report(
            source=HOSTILE,
            ranks=[replace(rank, host=HOSTILE) for rank in full.ranks],
            hosts=[replace(host, host=HOSTILE) for host in full.hosts],
            tags=[replace(tag, tag=HOSTILE) for tag in full.tags],
            detail=[replace(round_, tag=HOSTILE) for round_ in full.detail],
            failures=[replace(failure, message=HOSTILE, tag=HOSTILE) for failure in full.failures],
            clocks=[replace(clock, host=HOSTILE) for clock in full.clocks],
            notes=[HOSTILE],
        )
    )

    assert page.ask("window.hacked") is None
    assert page.ask("document.querySelectorAll('script, b:not(#tip b)').length") == 2
    for selector in (
        "h1",
        "#failures pre",
        "#notes",
        "#tags tbody th",
        "#round-text",
        "#clocks td, #clocks th[scope=row]",
    ):
        assert "</script><script>window.hacked = 1</script>" in page.text(selector)
    assert "</script>" in page.point("#round-chart [data-rank='2']")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(an_empty_report, "No rounds in this folder", id="empty"),
        pytest.param(one_rank, "One rank alone, which waits for nobody", id="one rank"),
    ],
)
def test_a_job_with_little_in_it_is_shown_as_such(
    show: Callable[..., Page], make: Callable[[], Report], says: str
) -> None:
    page = show(make())

    assert page.text("h1") == says
    assert "None." in page.text("#failures")
    assert not re.search("NaN|undefined|Infinity|null", page.text("main"))


@pytest.mark.parametrize("width", [1280, 360])
def test_the_largest_report_is_drawn_at_any_width(show: Callable[..., Page], width: int) -> None:
    page = show(a_large_report(), width=width)

    assert "the 256 costliest of 100,000 ranks" in page.text("#heat-legend")
    assert "100,000 ranks, 1,001 of them listed" in page.text("#ranks caption")
    assert "500 more are not shown" in page.text("#failures")
    assert page.ask("document.documentElement.scrollWidth") <= width
    assert not re.search("NaN|undefined|Infinity", page.text("main"))
