"""Fault rules in results and reports."""

from __future__ import annotations

import documents
from consoles import terminal
from msgspec.structs import replace

from agent.measure.summaries import RuleSummary, added_rules
from agent.report.html import report_html
from agent.report.merging import merge_documents
from agent.report.rules import rule_hits
from agent.report.terminal.summary import print_summary

FLAKY, NEVER = RuleSummary("flaky", 10, 3), RuleSummary("never", 0, 0)


def test_rules_are_summarized_in_one_line() -> None:
    assert rule_hits([FLAKY, NEVER, RuleSummary("one", 1, 1)]) == (
        "flaky hit 3 of 10 operations, never never matched, one hit 1 of 1 operation"
    )
    assert rule_hits([FLAKY] * 22).endswith(", 2 more rules")


def test_rules_of_several_parts_are_added_up() -> None:
    assert added_rules([[FLAKY, NEVER], [], [RuleSummary("never", 2, 1), FLAKY]]) == [
        RuleSummary("flaky", 20, 6),
        RuleSummary("never", 2, 1),
    ]


def test_rules_of_several_runs_are_added_up() -> None:
    good = documents.typed(documents.good())
    assert good.rules == []
    assert merge_documents([good, good]).rules == []
    ruled = replace(good, rules=[FLAKY])
    assert merge_documents([ruled, good, ruled]).rules == [RuleSummary("flaky", 20, 6)]


def test_the_terminal_and_the_page_have_the_line() -> None:
    good = documents.typed(documents.good())
    for document, wanted in ((good, False), (replace(good, rules=[FLAKY]), True)):
        console = terminal()
        print_summary(console, document)
        assert ("Fault rules: flaky hit 3 of 10 operations." in console.export_text()) is wanted
        assert ("<p>flaky hit 3 of 10 operations.</p>" in report_html([document])) is wanted
