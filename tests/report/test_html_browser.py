"""The page in a real browser: every chart is drawn, without console errors or network requests, and reacts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documents
import pytest
from devtools import Browser

from agent.report.html import report_html, write_report

pytestmark = pytest.mark.slow

PLOTS_OF_A_REPORT = 9  # rates, latencies, errors, two by percentile, Macs, connections, lag, CPU

DRIVER = """
(() => {
  const plot = (name) => document.querySelector(`[data-chart=${name}]`);
  const shown = (name) => [...plot(name).querySelectorAll("[data-name]")]
    .filter((path) => getComputedStyle(path).display !== "none").map((path) => path.dataset.name).join(" ");
  const all = (selector, of) => [...document.querySelectorAll(selector)].map(of).join(" ");
  const ticks = () => all(".across span, .up span", (each) => each.textContent);
  const rounded = (svg) => svg.getAttribute("viewBox").split(" ").map((each) => Number(each).toPrecision(3));
  const boxes = () => all("svg", rounded);
  const button = (key) => [...document.querySelectorAll("button")].find((each) => each.dataset.key === key);
  const found = {};
  const before = [ticks(), boxes()];
  button("session").click();
  found.pressed = button("session").getAttribute("aria-pressed");
  found.errorsWithout = shown("errors");
  found.fewer = ticks() !== before[0];
  button("session").click();
  found.sameTicks = ticks() === before[0];
  found.sameBoxes = boxes() === before[1];
  button("session").dispatchEvent(new MouseEvent("dblclick"));
  found.ratesAlone = shown("rates");
  found.stagesAlone = shown("stages");
  button("session").dispatchEvent(new MouseEvent("dblclick"));
  button("macs idle").click();
  found.macsWithout = shown("macs");
  button("macs idle").click();
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests here."""
    browser = Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield browser
    finally:
        browser.close()


def open_page(browser: Browser, page: Path, *, until: str = "true") -> None:
    """Leave the page before, and open this one; it is complete, and ``until`` is true."""
    browser.leave()
    browser.open(page.as_uri())
    browser.wait(f"location.href === {json.dumps(page.as_uri())} && document.readyState === 'complete' && {until}")


def open_report(browser: Browser, tmp_path: Path, *several: dict[str, Any]) -> None:
    """Write the page of these documents, and open it; its charts are drawn."""
    page = write_report(tmp_path / "page.html", [documents.typed(each) for each in several])
    open_page(browser, page, until="document.documentElement.dataset.drawn")


def requests(browser: Browser) -> list[str]:
    """What the page asked for, beside itself."""
    itself, *others = browser.requests
    assert itself.startswith("file:")
    return others


def count(browser: Browser, selector: str) -> int:
    """How many elements the page has."""
    return int(browser.run(f"document.querySelectorAll({json.dumps(selector)}).length"))


def assert_drawn(browser: Browser, plots: int) -> None:
    assert browser.complaints == []
    assert requests(browser) == []
    assert browser.run("document.documentElement.dataset.drawn") == str(plots)
    assert count(browser, "figure[data-chart] svg") == plots
    assert browser.run(HEIGHTS) == plots


# How many charts have a line or area that covers more than one pixel.
HEIGHTS = """
[...document.querySelectorAll("details")].forEach((each) => { each.open = true; }),
[...document.querySelectorAll("figure[data-chart]")].filter((each) =>
  [...each.querySelectorAll("path[data-name]")].some((path) => path.getBoundingClientRect().height > 1)).length
"""


def middle(browser: Browser, chart: str, across: float) -> dict[str, Any]:
    """A place of a chart on the screen: so much of its width from the left."""
    found: dict[str, Any] = browser.run(
        f"(() => {{ const area = document.querySelector('[data-chart={chart}] div.area');"
        f"area.scrollIntoView({{ block: 'center' }}); const box = area.getBoundingClientRect();"
        f"return {{ x: box.left + box.width * {across}, y: box.top + box.height / 2 }}; }})()"
    )
    return found


def mouse(browser: Browser, kind: str, place: dict[str, Any], clicks: int = 1) -> None:
    button = {"button": "left", "buttons": 1, "clickCount": clicks}
    browser.call("Input.dispatchMouseEvent", type=kind, **place, **(button if kind != "mouseMoved" else {}))


def ends(browser: Browser, chart: str) -> list[float]:
    """What a chart shows of the time."""
    left, _, width, _ = browser.run(
        f"document.querySelector('[data-chart={chart}] svg').getAttribute('viewBox').split(' ').map(Number)"
    )
    return [round(left), round(left + width)]


def test_every_chart_is_drawn_with_hostile_text(browser: Browser, tmp_path: Path) -> None:
    open_report(browser, tmp_path, documents.hostile())
    assert_drawn(browser, PLOTS_OF_A_REPORT)
    assert count(browser, "img, image") == 0


def test_every_chart_of_a_comparison_is_drawn(browser: Browser, tmp_path: Path) -> None:
    plots = len(documents.STEADY) + 1 + 5  # by operation; over time; by stage
    open_report(browser, tmp_path, documents.good(), documents.failed())
    assert_drawn(browser, plots)


def test_legends_hide_lines_in_all_charts(browser: Browser, tmp_path: Path) -> None:
    open_report(browser, tmp_path, documents.failed())
    assert browser.run(DRIVER) == {
        "pressed": "false",
        "errorsWithout": "lom_link",
        "fewer": True,
        "sameTicks": True,  # those of the script are those of the page
        "sameBoxes": True,
        "ratesAlone": "session",
        "stagesAlone": "connect handshake handshake_resumed first_byte request",
        "macsWithout": "new off booting session",
    }


def test_drag_zooms_all_charts_over_time_and_a_double_click_resets_them(browser: Browser, tmp_path: Path) -> None:
    open_report(browser, tmp_path, documents.failed())
    mouse(browser, "mousePressed", middle(browser, "rates", 0.1))
    mouse(browser, "mouseMoved", middle(browser, "rates", 0.15))
    mouse(browser, "mouseReleased", middle(browser, "rates", 0.19))
    assert ends(browser, "rates") == ends(browser, "cpu") == [60, 114]
    ticks = browser.run("document.querySelector('[data-chart=cpu] .across').textContent")
    assert "1:101:201:301:401:50" in ticks
    assert browser.run("document.querySelectorAll('[data-chart=cpu] .bands div:not([hidden])').length") == 1
    assert ends(browser, "stages") == [0, 5]  # by percentile
    for clicks in (1, 2):
        mouse(browser, "mousePressed", middle(browser, "cpu", 0.5), clicks)
        mouse(browser, "mouseReleased", middle(browser, "cpu", 0.5), clicks)
    assert ends(browser, "rates") == ends(browser, "cpu") == [0, 600]
    assert browser.complaints == []


def test_values_under_the_pointer_are_those_of_the_document(browser: Browser, tmp_path: Path) -> None:
    document = documents.failed()
    open_report(browser, tmp_path, document)
    row = document["timeline"][330]
    words: dict[str, list[str]] = {}
    for chart in ("errors", "latencies", "macs"):
        mouse(browser, "mouseMoved", middle(browser, chart, 330.3 / 600))
        words[chart] = browser.run(
            f"[...document.querySelectorAll('[data-chart={chart}] .tip :not(.swatch)')].map((each) => each.textContent)"
        )
    assert words["errors"][:3] == ["5:30", "session", f"{row['operations']['session']['errors']}/s"]
    title, *macs = words["macs"]
    assert title == "5:30"
    assert dict(zip(macs[::2], macs[1::2], strict=True)) == {
        state: f"{row['macs'][state]:,}" for state in ("idle", "session", "booting", "off", "new")
    }
    p99 = row["operations"]["delivery"]["p99_ms"]
    shown = words["latencies"][words["latencies"].index("delivery p99") + 1]
    assert float(shown.removesuffix(" s")) == pytest.approx(p99 / 1000, rel=0.006)


def test_page_without_scripts_has_its_charts(browser: Browser, tmp_path: Path) -> None:
    page = write_report(tmp_path / "page.html", [documents.typed(documents.failed())])
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        open_page(browser, page)
        assert browser.run("document.documentElement.dataset.drawn") is None
        assert browser.run(HEIGHTS) == PLOTS_OF_A_REPORT
        assert browser.run("getComputedStyle(document.querySelector('.hint')).display") == "none"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_requests_and_console_errors_of_a_page_are_detected(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<img src="http://nowhere.invalid/x"><script>throw new Error("on purpose")</script>')
    open_page(browser, path)
    assert requests(browser) == ["http://nowhere.invalid/x"]
    unreached, thrown = sorted(browser.complaints)
    assert unreached == "Failed to load resource: net::ERR_NAME_NOT_RESOLVED http://nowhere.invalid/x"
    assert "on purpose" in thrown


def test_csp_blocks_requests_and_scripts(browser: Browser, tmp_path: Path) -> None:
    strange = "<script>document.title = 'x'</script><img src=\"http://nowhere.invalid/x\">"
    path = tmp_path / "page.html"
    path.write_text(
        report_html([documents.typed(documents.smallest())]).replace("</body>", strange + "</body>"), encoding="utf-8"
    )
    open_page(browser, path)
    assert requests(browser) == []
    assert len(browser.complaints) == 2
    assert all("Content Security Policy" in each for each in browser.complaints)
