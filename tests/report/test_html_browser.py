"""The page in a real browser: every chart is drawn, without console errors or network requests."""

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
(async () => {
  const plots = [...document.querySelectorAll("[data-chart]")];
  const plot = (name) => plots.find((each) => each.dataset.chart === name);
  const shown = (name) => plot(name).data.filter((trace) => trace.visible).map((trace) => trace.name).join(" ");
  const button = [...document.querySelectorAll("button")].find((each) => each.dataset.key === "session");
  const found = {};
  button.click();
  found.pressed = button.getAttribute("aria-pressed");
  found.errorsWithout = shown("errors");
  button.dispatchEvent(new MouseEvent("dblclick"));
  found.ratesAlone = shown("rates");
  found.stagesAlone = shown("stages");
  await Plotly.relayout(plot("rates"), { "xaxis.range[0]": 60000, "xaxis.range[1]": 120000 });
  found.zoomed = plot("cpu").layout.xaxis.range.join(" ");
  await Plotly.relayout(plot("cpu"), { "xaxis.autorange": true });
  found.whole = plot("rates").layout.xaxis.range.join(" ");
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
    assert count(browser, "g.draglayer") == plots
    assert count(browser, "svg.main-svg") >= plots
    assert count(browser, "path.js-line") >= plots - 1  # all but the errors, which are bars


def test_every_chart_is_drawn_with_hostile_text(browser: Browser, tmp_path: Path) -> None:
    open_report(browser, tmp_path, documents.hostile())
    assert_drawn(browser, PLOTS_OF_A_REPORT)
    assert count(browser, "img, image") == 0


def test_every_chart_of_a_comparison_is_drawn(browser: Browser, tmp_path: Path) -> None:
    plots = len(documents.STEADY) + 1 + 5  # by operation; over time; by stage
    open_report(browser, tmp_path, documents.good(), documents.failed())
    assert_drawn(browser, plots)


def test_legend_and_zoom_apply_to_all_charts(browser: Browser, tmp_path: Path) -> None:
    open_report(browser, tmp_path, documents.failed())
    assert browser.run(DRIVER) == {
        "pressed": "false",
        "errorsWithout": "lom_link",
        "ratesAlone": "session",
        "stagesAlone": "connect handshake handshake_resumed first_byte request",
        "zoomed": "60000 120000",
        "whole": "0 600000",
    }


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
