"""The report as JUnit XML: a test for each requirement, whose class is its area. A failure has the exchanges as text.

A failed must is a failure, unless a waiver expects it; then, as what warns, is not applicable or was not tested, it is
a skipped test with the reason. A waiver for a failure that did not happen is a failure too. A run that did not come to
its end, or that judged nothing, has the error of another test, so that skipped tests are not taken for success.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

from agent.conform.output.terminal import entry_lines
from agent.conform.verdicts.document import Entry, Report
from agent.report.junit import xml_text


def junit(report: Report) -> bytes:
    """The XML."""
    suite = Element("testsuite", {"name": "lom-agent conform", "timestamp": report.time.removesuffix("Z")})
    properties = SubElement(suite, "properties")
    facts = {
        "schema": f"{report.schema} {report.version}",
        "agent": report.agent,
        "seed": report.seed,
        "profile": report.profile,
        "complete": str(report.complete).lower(),
        "server": " ".join(filter(None, (report.server.adapter, report.server.url, report.server.software))),
        **report.counts,
    }
    for name, value in facts.items():
        SubElement(properties, "property", {"name": name, "value": xml_text(str(value))})
    failures = skipped = 0
    for entry in report.requirements:
        area = entry.id.rpartition("-")[0]
        case = SubElement(suite, "testcase", {"classname": f"lom-agent.{area}", "name": entry.id, "time": "0"})
        SubElement(case, "system-out").text = xml_text(f"{entry.says} ({entry.source})")
        outcome = _outcome(entry)
        if outcome is not None:
            name, text = outcome
            failures += name == "failure"
            skipped += name == "skipped"
            element = Element(name, {"message": xml_text(text)})
            if entry.expected:
                element.text = xml_text("\n".join(entry_lines(entry)))
            case.insert(0, element)
    if report.unfinished:
        case = SubElement(suite, "testcase", {"classname": "lom-agent", "name": "the run", "time": "0"})
        SubElement(case, "error", {"message": xml_text(report.conclusion)})
    errors = int(report.unfinished)
    tests = len(report.requirements) + errors
    for name, count in (("tests", tests), ("failures", failures), ("skipped", skipped), ("errors", errors)):
        suite.set(name, str(count))
    octets: bytes = tostring(suite, encoding="utf-8", xml_declaration=True)
    return octets + b"\n"


def _outcome(entry: Entry) -> tuple[str, str] | None:
    """The element of a test that did not simply pass, and its text."""
    if entry.waived == "stale":
        return "failure", "The requirement passed, but a waiver expects it to fail. Remove the waiver."
    if entry.verdict == "pass":
        return None
    text = f"expected {entry.expected}, seen {entry.seen}" if entry.expected else entry.reason
    if entry.verdict == "fail" and entry.waived != "expected":
        return "failure", text
    return "skipped", f"{entry.verdict}: {text}" + (" (expected by a waiver)" if entry.waived == "expected" else "")
