"""What the page promises: one file, the same bytes, no text that becomes more than text, nothing shown of nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import documents
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError, OperatorError
from agent.report.html import MOST_RUNS, report_html, write_report
from agent.report.terminal.text import visible

ALL = (documents.good, documents.failed, documents.empty, documents.smallest, documents.hours, documents.hostile)


class Page(HTMLParser):
    """The page as a browser reads it: its elements, its texts by element, its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.texts.append(("", ""))

    def handle_data(self, data: str) -> None:
        if self.texts:
            tag, before = self.texts[-1]
            self.texts[-1] = (tag, before + data)

    def of(self, tag: str) -> list[str]:
        return [text.strip() for each, text in self.texts if each == tag]

    @property
    def scripts(self) -> list[str]:
        """Those that a browser runs."""
        kinds = [attributes.get("type") for tag, attributes in self.tags if tag == "script"]
        texts = [text for tag, text in self.texts if tag == "script"]
        return [text for text, kind in zip(texts, kinds, strict=True) if kind is None]

    @property
    def policy(self) -> str:
        return next(
            attributes["content"] or ""
            for tag, attributes in self.tags
            if attributes.get("http-equiv") == "Content-Security-Policy"
        )

    @property
    def words(self) -> str:
        """Everything but scripts and styles."""
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))


Make = Callable[[], dict[str, Any]]


def page(*several: dict[str, Any]) -> Page:
    return Page(report_html([documents.typed(each) for each in several]))


@cache
def html_of(*several: Make) -> str:
    """The page of documents as they are made: it is the same for all tests."""
    return report_html([documents.typed(make()) for make in several])


@cache
def page_of(*several: Make) -> Page:
    """The same as a browser reads it."""
    return Page(html_of(*several))


def headings(found: Page) -> list[str]:
    return found.of("h2")


# One file


@pytest.mark.parametrize("document", ALL)
def test_report_of_a_document_is_deterministic(document: Any) -> None:
    assert report_html([documents.typed(document())]) == html_of(document)


@pytest.mark.parametrize("several", [(documents.good,), (documents.good, documents.failed), (documents.smallest,)])
def test_report_loads_no_external_resource(several: Any) -> None:
    found = page_of(*several)
    for tag, attributes in found.tags:
        assert tag not in ("iframe", "object", "embed", "img", "base", "form"), tag
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert "@import" not in found.of("style")[0]
    assert "url(" not in found.of("style")[0]
    assert found.policy.startswith("default-src 'none'; ")


@pytest.mark.parametrize("document", [documents.good, documents.hostile])
def test_csp_allows_only_the_reports_script(document: Any) -> None:
    found = page_of(document)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.scripts]
    assert re.findall(r"'sha256-([^']+)'", found.policy) == hashes
    assert len(hashes) == 1
    assert "unsafe-eval" not in found.policy
    assert "'unsafe-inline'" not in found.policy.partition("style-src")[0]


def test_report_without_charts_has_no_scripts_and_allows_none() -> None:
    found = page_of(documents.smallest)
    assert found.scripts == []
    assert "script-src 'none'" in found.policy


def test_report_is_written_atomically_and_its_folder_created(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", [documents.typed(documents.smallest())])
    assert path.read_text(encoding="utf-8") == report_html([documents.typed(documents.smallest())])
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_unwritable_report_path_raises_operator_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OperatorError, match="cannot be written"):
        write_report(tmp_path / "taken" / "report.html", [documents.typed(documents.smallest())])


# Text from elsewhere


def test_hostile_text_is_escaped() -> None:
    found = page_of(documents.hostile)
    assert found.of("title")[0].startswith("The run did not finish")
    assert visible(documents.HOSTILE) in found.of("bdi")
    assert not {"\u2028", "\u202e", "\x1b"} & set(found.words)
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag


def test_hostile_text_in_charts_is_text() -> None:
    found = page_of(documents.hostile)
    names = [
        attributes[name] for _, attributes in found.tags for name in ("data-name", "data-key") if name in attributes
    ]
    assert len([name for name in names if name and visible(documents.HOSTILE) in name]) >= 8
    assert found.of("span").count(visible(documents.HOSTILE)) >= 4  # the phase, in each chart over time


@pytest.mark.parametrize("several", [(documents.failed,), (documents.hours,), (documents.good, documents.failed)])
def test_page_is_small(several: Any) -> None:
    assert len(html_of(*several).encode()) < 400_000


@cache
def elements_with_one_error() -> int:
    harmless = {"operation": "session", "kind": "broken", "count": 1, "example": "it broke"}
    return len(page(documents.smallest() | {"errors": [harmless]}).tags)


@given(st.text())
def test_any_text_is_shown_unchanged_with_visible_control_characters(text: str) -> None:
    document = documents.smallest()
    document["errors"] = [{"operation": "session", "kind": text, "count": 1, "example": text}]
    found = page(document)
    assert found.of("bdi") == [visible(text).strip()]
    assert len(found.tags) == elements_with_one_error()


# What is shown of what


def test_verdict_comes_first_and_starts_with_an_overloaded_generator() -> None:
    found = page_of(documents.failed)
    assert found.tags[[tag for tag, _ in found.tags].index("main") + 1][1]["class"] == "verdict bad"
    assert "10 operations failed, 3 of 4 limits failed, the load generator was overloaded" in found.words
    assert found.words.index("The load generator was overloaded") < found.words.index("3 of 4 limits failed.")


def test_report_of_a_complete_run_has_every_part() -> None:
    assert headings(page_of(documents.failed)) == [
        "Limits",
        "Over time",
        "Latency by percentile",
        "Operations",
        "Stages",
        "Errors",
        "Never started",
        "Fleet",
        "Phases",
        "Load generator",
        "Pushes",
        "Settings",
    ]


def test_cut_short_operations_have_a_column_and_reasons() -> None:
    document = documents.good()
    document["operations"]["push"]["cut_short"] = 4321
    document["cut_short"] = [{"operation": "push", "reason": "the run ended early", "count": 4321}]
    found = page(document)
    assert "Cut short" in headings(found)
    titles = found.of("th")
    assert titles[titles.index("Errors") : titles.index("Errors") + 3] == ["Errors", "Cut short", "Late"]
    assert found.of("td").count("4,321") == 2
    assert "the run ended early" in found.of("td")


def test_empty_parts_are_omitted() -> None:
    assert headings(page_of(documents.smallest)) == ["Settings"]
    assert headings(page_of(documents.empty)) == ["Load generator", "Settings"]


def test_run_with_only_failures_has_no_latencies() -> None:
    document = documents.good()
    operations = {"session": documents.nothing_succeeded(17)}
    document |= {"operations": operations, "timeline": [], "stages": {}, "limits": []}
    found = page(document)
    assert "Over time" not in headings(found)
    assert "Latency by percentile" not in headings(found)
    assert "17 operations failed" in found.words


def test_thinned_time_line_states_its_interval() -> None:
    assert "Each point is an interval of 10 seconds" in page_of(documents.hours).words
    assert "Each point is" not in page_of(documents.good).words


def test_percentiles_of_few_latencies_are_marked_and_explained() -> None:
    assert "Fewer than ten latencies are beyond it" in page_of(documents.good).words
    assert "Fewer than ten latencies are beyond it" not in page_of(documents.hours).words


def test_long_tables_are_truncated_with_a_note() -> None:
    document = documents.failed()
    error = document["errors"][0]
    document["errors"] = [error | {"kind": f"kind_{number}"} for number in range(250)]
    found = page(document)
    assert "kind_199" in found.words
    assert "kind_200" not in found.words
    assert "50 more kinds" in found.words


def test_merged_runs_are_marked_as_merged() -> None:
    merged = {"runs": 3, "left_out": ["the time line of run 2"]}
    assert "the sum of 3 runs, without the time line of run 2" in page(documents.good() | {"merged": merged}).words


# Several runs


def test_several_documents_give_a_comparison() -> None:
    found = page(documents.good(), documents.failed(), documents.smallest())
    assert headings(found) == ["Runs", "Operations", "Latency by percentile", "Over time", "Stages", "Errors"]
    assert "run C is not comparable with run A: in run C no operation ended" in found.words
    assert "Every run is compared with run A" in found.words


def test_comparison_of_empty_runs_states_it() -> None:
    found = page_of(documents.smallest, documents.empty)
    assert headings(found) == ["Runs"]
    assert "in run A no operation ended" in found.words


# Not at all


def test_report_without_documents_raises_misuse_error() -> None:
    with pytest.raises(MisuseError, match="found none"):
        report_html([])


def test_too_many_runs_for_a_comparison_are_refused() -> None:
    with pytest.raises(OperatorError, match=f"at most {MOST_RUNS} runs"):
        report_html([documents.typed(documents.smallest())] * (MOST_RUNS + 1))


def test_invalid_histogram_is_refused() -> None:
    document = documents.good()
    document["operations"]["session"]["histogram"] = "SElTVA=="
    with pytest.raises(OperatorError, match="histogram"):
        report_html([documents.typed(document)])
