"""The page in a real browser: every chart is drawn, without console errors or network requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import documents
import pytest
from chromium import Opened, open_page

from agent.report.html import report_html, write_report

pytestmark = pytest.mark.slow

PLOTS_OF_A_REPORT = 9  # rates, latencies, errors, two by percentile, Macs, connections, lag, CPU

DRIVER = """
const root = document.documentElement;
const plots = [...document.querySelectorAll("[data-chart]")];
const plot = (name) => plots.find((each) => each.dataset.chart === name);
const shown = (name) => plot(name).data.filter((trace) => trace.visible).map((trace) => trace.name).join(" ");
const button = [...document.querySelectorAll("button")].find((each) => each.dataset.key === "session");
button.click();
root.dataset.pressed = button.getAttribute("aria-pressed");
root.dataset.errorsWithout = shown("errors");
button.dispatchEvent(new MouseEvent("dblclick"));
root.dataset.ratesAlone = shown("rates");
root.dataset.stagesAlone = shown("stages");
Plotly.relayout(plot("rates"), { "xaxis.range[0]": 60000, "xaxis.range[1]": 120000 }).then(() => {
  root.dataset.zoomed = plot("cpu").layout.xaxis.range.join(" ");
  return Plotly.relayout(plot("cpu"), { "xaxis.autorange": true });
}).then(() => {
  root.dataset.whole = plot("rates").layout.xaxis.range.join(" ");
});
"""


def opened(tmp_path: Path, *several: dict[str, Any]) -> Opened:
    return open_page(write_report(tmp_path / "page.html", [documents.typed(each) for each in several]), tmp_path)


def assert_drawn(page: Opened, plots: int) -> None:
    assert page.complaints == []
    assert page.requests == []
    assert page.root["data-drawn"] == str(plots)
    classes = [name for element in page.elements if element.tag in ("svg", "path", "g") for name in element.classes]
    assert classes.count("draglayer") == plots
    assert classes.count("main-svg") >= plots
    assert classes.count("js-line") >= plots - 1  # all but the errors, which are bars


def test_every_chart_is_drawn_with_hostile_text(tmp_path: Path) -> None:
    page = opened(tmp_path, documents.hostile())
    assert_drawn(page, PLOTS_OF_A_REPORT)
    assert [each for each in page.elements if each.tag in ("img", "image")] == []


def test_every_chart_of_a_comparison_is_drawn(tmp_path: Path) -> None:
    plots = len(documents.STEADY) + 1 + 5  # by operation; over time; by stage
    assert_drawn(opened(tmp_path, documents.good(), documents.failed()), plots)


def test_legend_and_zoom_apply_to_all_charts(tmp_path: Path) -> None:
    page = report_html([documents.typed(documents.failed())])
    # The page lets no strange script run, so that this one has to come without its policy.
    start, end = page.index('<meta http-equiv="Content-Security-Policy"'), page.index('<meta name="viewport"')
    driven = page[:start] + page[end:].replace("</body>", f"<script>{DRIVER}</script></body>")
    path = tmp_path / "page.html"
    path.write_text(driven, encoding="utf-8")

    root = open_page(path, tmp_path).root

    assert root["data-pressed"] == "false"
    assert root["data-errors-without"] == "lom_link"
    assert root["data-rates-alone"] == "session"
    assert root["data-stages-alone"] == "connect handshake handshake_resumed first_byte request"
    assert root["data-zoomed"] == "60000 120000"
    assert root["data-whole"] == "0 600000"


def test_requests_and_console_errors_of_a_page_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<img src="http://nowhere.invalid/x"><script>throw new Error("on purpose")</script>')
    page = open_page(path, tmp_path)
    assert page.requests == ["http://nowhere.invalid/x"]
    assert len(page.complaints) == 1
    assert "on purpose" in page.complaints[0]


def test_csp_blocks_requests_and_scripts(tmp_path: Path) -> None:
    strange = "<script>document.title = 'x'</script><img src=\"http://nowhere.invalid/x\">"
    path = tmp_path / "page.html"
    path.write_text(
        report_html([documents.typed(documents.smallest())]).replace("</body>", strange + "</body>"), encoding="utf-8"
    )
    page = open_page(path, tmp_path)
    assert page.requests == []
    assert len(page.complaints) == 2
    assert all("Content Security Policy" in each for each in page.complaints)
