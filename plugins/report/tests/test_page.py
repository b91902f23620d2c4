"""The report's page: one file that loads nothing, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from barrier_core.report.model import (
    BarrierCost,
    ClockFit,
    DetailedRound,
    Failure,
    HeatMap,
    HostCost,
    RankCost,
    RankInRound,
    Report,
    TagCost,
    TrendPoint,
)
from barrier_core.report.page import render_page, write_page

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

START = 1_790_000_000.0
RANKS = 8
LATE_RANK = 5
ROUNDS = 40
HOSTILE = "</script><script>window.hacked = 1</script><!-- <b onload=x> &lt; {{data}} \u2028 'é\""


def host_of(rank: int) -> str:
    return f"gpu-{rank // 4}"


def a_round(number: int) -> DetailedRound:
    """A round a minute; the late rank comes 2 s after the others to every even one."""
    wait = 2.0 if number % 2 == 0 else 0.001
    arrived = {rank: 0.0 if rank == LATE_RANK else -wait + rank / 1e5 for rank in range(RANKS)}
    ranks = [RankInRound(rank, at, 0.0002, "passed") for rank, at in arrived.items()]
    at = START + 60 * number
    return DetailedRound(0, number, f"save step={number}", at, 7 * wait, ranks, [])


def the_failed_round() -> DetailedRound:
    ranks = [RankInRound(rank, -30.0, 0.001 * rank, "dead") for rank in range(RANKS) if rank != 3]
    return DetailedRound(0, ROUNDS, "save step=40", START + 60 * ROUNDS, 0.0, ranks, [3])


def a_report(**changes: Any) -> Report:
    """Eight ranks on two hosts, forty rounds; one rank is late, and at last one is dead."""
    costs = {rank: 280.0 if rank == LATE_RANK else 0.01 * rank for rank in range(RANKS)}
    ranks = [
        RankCost(
            rank=rank,
            host=host_of(rank),
            pid=4000 + rank,
            rounds=ROUNDS,
            times_last=20 if rank == LATE_RANK else 3,
            cost_secs=cost,
            median_lateness_secs=1.0 if rank == LATE_RANK else 0.0001,
            p99_lateness_secs=2.0 if rank == LATE_RANK else 0.001,
            max_lateness_secs=2.0 if rank == LATE_RANK else 0.001,
            waited_secs=1.0 if rank == LATE_RANK else 41.0,
        )
        for rank, cost in sorted(costs.items(), key=lambda item: -item[1])
    ]
    lateness: list[list[float | None]] = [
        [
            2.0 if rank == LATE_RANK and number % 2 == 0 else 0.0001 * rank
            for number in range(1, ROUNDS + 1)
        ]
        for rank in range(RANKS)
    ]
    report = Report(
        source="/scratch/run-41/traces",
        start=START,
        end=START + 60 * ROUNDS + 30,
        rounds=ROUNDS,
        failed=1,
        world_size=RANKS,
        cost_secs=sum(costs.values()),
        barriers=[BarrierCost("tcp_store", "ckpt", "0", RANKS, ROUNDS, 1, sum(costs.values()))],
        ranks=ranks,
        hosts=[
            HostCost("gpu-1", "4-7", 30, 280.13, 0.0002, 0.25),
            HostCost("gpu-0", "0-3", 9, 0.06, -0.0001, 0.0),
        ],
        tags=[TagCost("save step=#", ROUNDS, 1, 280.0, 1.0, LATE_RANK)],
        trend=[
            TrendPoint(START + 600 * i, 10, 70.0, 1.0, 2.0 + i, 0.9, LATE_RANK) for i in range(4)
        ],
        heat=HeatMap(START + 30, 60.0, list(range(RANKS)), lateness),
        detail=[*(a_round(number) for number in range(30, ROUNDS)), the_failed_round()],
        failures=[
            Failure(
                barrier=0,
                round=ROUNDS,
                tag="save step=40",
                at=START + 60 * ROUNDS,
                kind="dead",
                decided_by=0,
                message="round 40 'save step=40' was broken: rank 3 (gpu-0, pid 4003) dead",
                missing="3",
                raised_on="0-2, 4-7",
            )
        ],
        clocks=[ClockFit("gpu-1", 0.25, 3.0, 0.0001, 0.0004, 39)],
        notes=["rank 3: the last record is torn"],
    )
    return msgspec.structs.replace(report, **changes)


def a_slow_host() -> Report:
    """All ranks of one host are late, in turn."""
    hosts = [
        HostCost(f"gpu-{i}", f"{4 * i}-{4 * i + 3}", 10 - i, cost, 0.1, 0.0)
        for i, cost in enumerate([270.0, 10.0])
    ]
    ranks = [
        msgspec.structs.replace(rank, cost_secs=cost, times_last=5)
        for rank, cost in zip(a_report().ranks, [70, 68, 67, 65, 3, 3, 2, 2], strict=True)
    ]
    return a_report(hosts=hosts, ranks=ranks, cost_secs=280.0)


def an_empty_report() -> Report:
    nothing = HeatMap(0.0, 0.0, [], [])
    return Report("/empty", 0, 0, 0, 0, 0, 0, [], [], [], [], [], nothing, [], [], [], [])


def one_rank() -> Report:
    full = a_report()
    return a_report(
        world_size=1,
        failed=0,
        cost_secs=0.0,
        ranks=[msgspec.structs.replace(full.ranks[-1], cost_secs=0.0)],
        hosts=[HostCost("gpu-0", "0", ROUNDS, 0.0, 0.0, 0.0)],
        heat=HeatMap(START, 60.0, [0], [[0.0, None, 0.0]]),
        detail=[
            DetailedRound(0, 1, "", START, 0.0, [RankInRound(0, 0.0, 0.0001, "passed")], []),
        ],
        failures=[],
        trend=[TrendPoint(START, ROUNDS, 0.0, 0.0, 0.0, 0.0, None)],
        notes=[],
    )


def a_large_report() -> Report:
    """As much as a report can hold: the largest heat map, all rounds in detail, many ranks."""
    world_size = 100_000
    rows = list(range(0, 256 * 390, 390))
    model = a_report().ranks[-1]
    ranks = [
        msgspec.structs.replace(
            model, rank=rank, host=f"node-{rank // 8:05}.cluster", cost_secs=1e6 / (1 + position)
        )
        for position, rank in enumerate([*rows, *sorted(set(range(world_size)).difference(rows))])
    ]
    detail = [
        DetailedRound(
            barrier=0,
            round=number,
            tag=f"save step={number}",
            at=START + number * 10,
            cost_secs=1e4 + number,
            ranks=[
                RankInRound(rank, -1.23456789 + rank / 1e6, 0.000123456, "passed")
                for rank in [*rows, world_size - 1]
            ],
            missing=list(range(1, world_size, 2)) if number == 7 else [],
        )
        for number in range(1, 301)
    ]
    return a_report(
        world_size=world_size,
        rounds=1_000_000,
        ranks=ranks,
        heat=HeatMap(START, 8.0, rows, [[0.0012345 * (1 + r % 7)] * 400 for r in range(256)]),
        trend=[
            TrendPoint(START + 8 * i, 2500, 1e3 + i, 0.0123456, 1.23456, 0.5, 0) for i in range(400)
        ],
        detail=detail,
        failures=a_report().failures * 1500,
    )


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


# -- without a browser


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("of the last run")

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


# -- in a browser


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


class Page:
    """A report's page in the browser."""

    def __init__(self, browser: Chrome, path: Path) -> None:
        self.browser = browser
        self.url = path.as_uri()

    def open(self, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.browser.get(self.url)
        assert self.ask("document.body.dataset.drawn") == "yes"

    def ask(self, expression: str) -> Any:
        return self.browser.execute_script(f"return {expression}")

    def find(self, selector: str) -> str:
        return f"document.querySelector({json.dumps(selector)})"

    def text(self, selector: str) -> str:
        """All text in an element, in one line."""
        element = self.find(selector)
        return " ".join(self.ask(f"({element}.innerText ?? {element}.textContent)").split())

    def click(self, selector: str) -> None:
        self.ask(f"{self.find(selector)}.click()")

    def press(self, selector: str, key: str) -> None:
        event = f"new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}})"
        self.ask(f"{self.find(selector)}.dispatchEvent({event})")

    def point(self, selector: str, x: float = 0.5, y: float = 0.5, press: bool = False) -> str:
        """Move the real pointer into an element, as parts of its size; return the tooltip."""
        element = self.find(selector)
        # Scrolling hides the tooltip, with the next frame.
        self.browser.execute_async_script(
            f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )
        box = self.ask(f"{element}.getBoundingClientRect()")
        at = {"x": box["left"] + x * box["width"], "y": box["top"] + y * box["height"]}
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if press else ())):
            button = {"button": "left", "clickCount": 1} if press else {}
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at, **button})
        return "" if self.ask("document.getElementById('tip').hidden") else self.text("#tip")

    def pixel(self, rank: int, bucket: int) -> tuple[int, ...]:
        """The colour of a cell of the heat map."""
        # From a copy: the browser would complain that the map itself is not made to be read.
        script = """
            const context = new OffscreenCanvas(1, 1).getContext("2d");
            context.drawImage(document.getElementById("heat"), -arguments[0], -arguments[1]);
            return [...context.getImageData(0, 0, 1, 1).data];
        """
        return tuple(self.browser.execute_script(script, bucket, rank))

    def colour(self, variable: str) -> tuple[int, ...]:
        """A colour of the style sheet."""
        value = self.ask(
            f"getComputedStyle(document.documentElement).getPropertyValue('{variable}')"
        )
        return (*bytes.fromhex(value.strip().lstrip("#")), 255)

    def _log(self, kind: str) -> list[Any]:
        return list(self.browser.get_log(kind))  # type: ignore[no-untyped-call]

    def console(self) -> list[Any]:
        return self._log("browser")

    def requests(self) -> set[str]:
        """What the browser has been asked to load since this was asked last."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }


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

    assert told.startswith("rounds 31 to 40 of the run")
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
def test_a_run_with_little_in_it_is_shown_as_such(
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
