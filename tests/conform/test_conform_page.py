"""The HTML report in headless Chromium: the evidence is folded, nothing is asked for, and axe-core's checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from axe import axe_script
from conform_runs import header
from devtools import Browser

from agent.conform.output.html import html
from agent.conform.trace.bodies import body_of
from agent.conform.trace.records import ExchangeRecord, ProbeRecord, Trace
from agent.conform.verdicts.document import report_of
from agent.conform.verdicts.judge import judge
from agent.conform.verdicts.requirement import Level, Requirement, Source, failed, not_tested, passed
from agent.conform.verdicts.waivers import Waiver

pytestmark = pytest.mark.slow

FINDINGS = (
    lambda evidence: passed(*evidence.exchanges()),
    lambda evidence: failed("this", "that", *evidence.exchanges()),
    lambda _evidence: not_tested("Nothing happened."),
)


def page() -> str:
    """All five verdicts, each with a body that is wider than the page."""
    body = body_of(b'{"key": "' + b"long " * 200 + b'"}')
    exchange = ExchangeRecord(
        number=1, probe="p", at=0.0, seconds=0.1, udid="A", kind="report", url="https://mdm.example/mdm", status=500,
        request=body, response=body,
    )  # fmt: skip
    trace = Trace(header(), [exchange, ProbeRecord(number=2, probe="p", at=0.0, outcome="done")])
    levels = (*(Level.MUST for _ in FINDINGS), Level.SHOULD, Level.MUST)
    checks: tuple[Any, ...] = (*FINDINGS, FINDINGS[1], FINDINGS[1])
    needs = (None, None, None, None, "ddm")
    entries = [
        Requirement(
            f"A-B-0{number}", level, f"It {level.value} be so.", Source("a page"), ("mdm",), ("p",), check, lack
        )
        for number, (level, check, lack) in enumerate(zip(levels, checks, needs, strict=True), start=1)
    ]
    waivers = [Waiver(id="A-B-02", reason="known"), Waiver(id="A-B-01", reason="known")]
    return html(report_of(trace, judge(trace, entries, {"ddm": False}, waivers)))


def test_axe_finds_nothing_serious_and_no_other_host_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    # The page allows no script; axe is one, so the copy that it checks has the rest of the policy.
    file.write_text(
        re.sub(r"default-src 'none'", "default-src 'none'; script-src 'unsafe-eval' 'unsafe-inline'", page())
    )
    browser = Browser(tmp_path)
    try:
        browser.open(file.as_uri())
        browser.wait("document.readyState === 'complete'")
        assert browser.run("document.querySelectorAll('details').length") == 3
        assert browser.run("document.querySelectorAll('details[open]').length") == 0
        browser.run("document.querySelectorAll('summary').forEach((each) => each.click())")
        browser.run(axe_script(tmp_path) + ";0")
        for scheme, rules in (("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")):
            browser.colours(scheme)
            found: list[dict[str, Any]] = browser.run(f"axe.run({rules}).then((found) => found.violations)")
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious] == [], scheme
        assert browser.complaints == []
        assert browser.requests == [file.as_uri()]
    finally:
        browser.close()
