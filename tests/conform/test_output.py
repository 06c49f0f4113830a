"""The outputs of a report: what they show, and that text of a server is only text in them."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from conform_runs import header

from agent import __version__
from agent.conform.output.html import html
from agent.conform.output.junit import junit
from agent.conform.output.markdown import markdown
from agent.conform.output.terminal import lines
from agent.conform.trace.bodies import body_of
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, ProbeRecord, Trace
from agent.conform.verdicts.document import Report, report_of
from agent.conform.verdicts.judge import judge
from agent.conform.verdicts.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.conform.verdicts.waivers import Waiver

HOSTILE = '<script>alert(1)</script> | `x` [y](z) \x1b[2J \u202e &amp; "q"'


def _fails(evidence: Evidence) -> Finding:
    return failed("this", HOSTILE, *evidence.exchanges())


def _passes(evidence: Evidence) -> Finding:
    return passed(*evidence.exchanges())


def _unknown(_evidence: Evidence) -> Finding:
    return not_tested("Nothing happened.")


def _entry(number: int, check: Any, level: Level = Level.MUST, needs: str | None = None) -> Requirement:
    id_ = f"A-B-0{number}"
    return Requirement(id_, level, f"It {level.value} be so.", Source("a page"), ("mdm",), ("one",), check, needs)


@pytest.fixture(scope="module")
def report() -> Report:
    """All five verdicts, a waiver that is expected and one that is stale."""
    exchange = ExchangeRecord(
        number=1,
        probe="one",
        at=0.0,
        seconds=0.1,
        udid="UDID",
        kind="report",
        method="PUT",
        url="https://mdm.example/mdm",
        status=500,
        response_headers={"server": HOSTILE},
        response=body_of(HOSTILE.encode()),
    )
    trace = Trace(header(), [exchange, ProbeRecord(number=2, probe="one", at=0.0, outcome="done")])
    entries = [
        _entry(1, _fails),
        _entry(2, _fails, Level.SHOULD),
        _entry(3, _passes),
        _entry(4, _unknown),
        _entry(5, _fails, needs="acme"),
        _entry(6, _fails),
        _entry(7, _passes),
    ]
    waivers = [Waiver(id="A-B-06", reason="known"), Waiver(id="A-B-07", reason="known")]
    return report_of(trace, judge(trace, entries, {"acme": False}, waivers))


def test_the_terminal_explains_failures_and_leaves_out_what_passed(report: Report) -> None:
    text = "\n".join(lines(report))
    assert "FAIL           A-B-01  It must be so." in text
    assert "expected: this" in text
    assert "record 1: PUT https://mdm.example/mdm → 500" in text
    assert "NOT TESTED     A-B-04  It must be so.\n      Nothing happened." in text
    assert "A-B-03" not in text
    assert "A-B-07 passed, but a waiver expects it to fail." in text
    assert "7 requirements: 2 pass, 2 fail, 1 warn, 1 not applicable, 1 not tested." in text
    assert "\x1b" not in text
    assert "A-B-03" in "\n".join(lines(report, every=True))


def test_the_json_has_the_schema_the_counts_and_the_exit_status(report: Report) -> None:
    document = json.loads(report.as_json())
    assert (document["schema"], document["version"]) == ("lom-agent conformance report", 1)
    assert sum(document["counts"].values()) == len(document["requirements"]) == 7
    assert document["exit_status"] == 1
    assert document["requirements"][0]["evidence"][0]["number"] == 1


def test_junit_has_a_test_for_each_requirement(report: Report) -> None:
    suite = ElementTree.fromstring(junit(report))
    outcomes = {case.get("name"): case[0].tag for case in suite.findall("testcase")}
    assert outcomes == {
        "A-B-01": "failure",
        "A-B-02": "skipped",
        "A-B-03": "system-out",
        "A-B-04": "skipped",
        "A-B-05": "skipped",
        "A-B-06": "skipped",
        "A-B-07": "failure",
    }
    assert [suite.get(name) for name in ("tests", "failures", "skipped", "errors")] == ["7", "2", "4", "0"]
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties["not tested"] == "1"


def test_the_page_has_the_text_of_a_server_as_text_and_no_other_host(report: Report) -> None:
    page = html(report)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.findall(r"""src=|href=(?!"#A-B-)""", page)
    assert page.count('href="#A-B-0') == 4  # three that failed or warned, and a stale waiver
    assert page.count("<details>") == 5  # each with a record that shows its verdict
    assert "\x1b" not in page


def test_the_summary_in_markdown_has_no_markup_of_a_server(report: Report) -> None:
    text = markdown(report)
    assert "| 2 | 2 | 1 | 1 | 1 |" in text
    assert "<script" not in text
    assert "[y](z)" not in text
    row = next(line for line in text.splitlines() if "`A-B-01`" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_every_report_says_what_it_is_of_and_from(report: Report) -> None:
    schema, facts = "lom-agent conformance report 1", (__version__, "conform", "2026-09-21T", "&quot;q&quot;")
    texts = ["\n".join(lines(report)), html(report), markdown(report), junit(report).decode()]
    for text in texts:
        plain = text.replace("\\", "").replace("&#34;", "&quot;").replace('"q"', "&quot;q&quot;")
        assert [each for each in (schema, *facts) if each not in plain] == []
        assert [verdict for verdict in report.counts if verdict not in plain] == []
    assert all("A must failed. Not tested: 1 of 7." in text for text in texts[:3])
    document = json.loads(report.as_json())
    assert {"schema", "version", "agent", "seed", "server", "time", "counts"} <= document.keys()
    assert document["server"]["software"].endswith('"q"')


def test_a_report_of_a_stopped_run_says_so(report: Report) -> None:
    stopped = Report(**{name: getattr(report, name) for name in Report.__struct_fields__} | {"complete": False})
    for text in ("\n".join(lines(stopped)), html(stopped), markdown(stopped)):
        assert "The run was stopped: the requirements that were not reached are not tested. A must failed." in text


@pytest.mark.parametrize(("check", "said"), [(_fails, "A must failed."), (_passes, "No must failed.")])
def test_the_exit_status_of_a_report_is_that_of_the_signal_that_stopped_the_run(check: Any, said: str) -> None:
    exchange = ExchangeRecord(number=1, probe="one", at=0.0, seconds=0.1, udid="UDID", kind="report")
    ended = ProbeRecord(number=2, probe="one", at=0.0, outcome="done")
    trace = Trace(header(), [exchange, ended], signal=15)
    stopped = report_of(trace, judge(trace, [_entry(1, check)], {}))
    assert (stopped.exit_status, stopped.complete) == (143, False)
    assert stopped.conclusion.endswith(said)


def _texts(report: Report) -> list[str]:
    return ["\n".join(lines(report)), html(report), markdown(report), junit(report).decode()]


@pytest.mark.parametrize(("check", "said"), [(_fails, "A must failed."), (_passes, "No must failed.")])
def test_a_trace_without_its_end_is_incomplete_in_every_report(check: Any, said: str) -> None:
    exchange = ExchangeRecord(number=1, probe="one", at=0.0, seconds=0.1, udid="UDID", kind="report")
    ended = ProbeRecord(number=2, probe="one", at=0.0, outcome="done")
    trace = Trace(header(), [exchange, ended], whole=False)
    cut = report_of(trace, judge(trace, [_entry(1, check)], {}))
    assert (cut.exit_status, cut.complete) == (130, False)
    for text in _texts(cut):
        assert "it is not known whether the run came to its end." in text
        assert said in text
    assert ElementTree.fromstring(junit(cut)).get("errors") == "1"


def test_a_failure_of_a_server_in_which_no_mac_could_enroll_says_both() -> None:
    exchange = ExchangeRecord(number=1, probe="one", at=0.0, seconds=0.1, udid="UDID", kind="enroll")
    trace = Trace(header(), [exchange, ProbeRecord(number=2, probe="one", at=0.0, outcome="done")])
    found = report_of(trace, judge(trace, [_entry(1, _fails)], {}))
    assert found.exit_status == 1
    for text in _texts(found):
        assert "A must failed. No Mac could enroll" in text


def test_a_report_in_which_nothing_was_judged_is_no_success() -> None:
    ended = ProbeRecord(number=1, probe="one", at=0.0, outcome="not run", reason="There is no adapter.")
    trace = Trace(header(), [ended])
    found = report_of(trace, judge(trace, [_entry(1, _passes)], {}))
    assert found.exit_status == 2
    for text in _texts(found):
        assert "No requirement was judged" in text
