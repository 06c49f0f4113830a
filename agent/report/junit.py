"""The results of a run as JUnit XML, which CI systems show as tests.

There are tests for the run as a whole, one for each phase and one for each limit. Whether the load generator kept up is
a test that is skipped if it was overloaded. The format has no standard; this follows the schema of Jenkins
(junit-10.xsd) and, except for the attribute ``hostname``, which is left out, that of Ant (JUnit.xsd of Windy Road).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from agent.files import write_file
from agent.measure.summaries import PhaseSummary
from agent.report.document import Document
from agent.report.outcome import Kind, Reason, outcome

NAMELESS = "lom-agent"  # the suite of a scenario without a name

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # Source: XML 1.0, 2.2, Char


def write_junit(path: str | os.PathLike[str], document: Document, unwritten: Sequence[str] = ()) -> Path:
    """Write the XML to ``path`` atomically; return the path. Raises OperatorError if it cannot be written."""
    return write_file(Path(path), junit(document, unwritten), make_folder=True)


def junit(document: Document, unwritten: Sequence[str] = ()) -> bytes:
    """The XML: one suite, named after the scenario, of the test classes ``run``, ``phase`` and ``limit``.

    There is a failure or an error exactly if the command's exit status is not 0 (`agent.report.outcome`): limits that
    did not pass, failures that no limit allows, and a phase of which no operation succeeded or failed are failures; a
    run or a phase that did not finish, and a result that could not be written (``unwritten``), are errors. A phase that
    never started in a run that did not finish, and an overloaded load generator, are skipped tests.
    """
    reasons = outcome(document).reasons
    name = document.name or NAMELESS
    suite = Element("testsuite")
    _properties(suite, document)
    _run(suite, name, document, reasons, unwritten)
    for phase in document.phases:
        _phase(suite, name, phase, document, reasons)
    for text in dict.fromkeys(verdict.limit for verdict in document.limits):
        case = _case(suite, f"{name}.limit", text, 0.0)
        verdicts = [verdict for verdict in document.limits if verdict.limit == text]
        kind = "limit" if all(verdict.reliable for verdict in verdicts) else "not judged"
        _say(case, "failure", kind, [each.text for each in reasons if each.kind is Kind.LIMIT and each.name == text])
    return _finished(suite, name, document)


def _properties(suite: Element, document: Document) -> None:
    properties = SubElement(suite, "properties")
    facts: dict[str, object] = {"version": document.version, "seed": document.seed, "devices": document.devices}
    if document.resumed:
        facts["resumed"] = len(document.resumed)
    if document.changed is not None:
        facts["changes"] = document.changed
    for key, fact in facts.items():
        SubElement(properties, "property", {"name": key, "value": xml_text(str(fact))})
    for name, operation in document.operations.items():
        count, failed, cut_short = operation.count, operation.errors, operation.cut_short
        value = f"{count + cut_short} started, {count - failed} succeeded, {failed} failed, {cut_short} cut short"
        SubElement(properties, "property", {"name": xml_text(name), "value": value})


def _run(suite: Element, name: str, document: Document, reasons: Sequence[Reason], unwritten: Sequence[str]) -> None:
    case = _case(suite, f"{name}.run", "complete", document.duration_s)
    _say(case, "error", "incomplete", [each.text for each in reasons if each.kind is Kind.RUN])
    case = _case(suite, f"{name}.run", "no unexpected failures", 0.0)
    _say(case, "failure", "failures", [each.text for each in reasons if each.kind is Kind.FAILURES])
    case = _case(suite, f"{name}.run", "results written", 0.0)
    _say(case, "error", "unwritten", unwritten)
    case = _case(suite, f"{name}.run", "load generator kept up", 0.0)
    if not document.generator.trustworthy:
        _outcome(case, "skipped", None, " ".join(document.generator.reasons) or "The load generator was overloaded.")


def _phase(suite: Element, name: str, phase: PhaseSummary, document: Document, reasons: Sequence[Reason]) -> None:
    started, ended = phase.started_s, phase.ended_s
    seconds = 0.0 if started is None or ended is None else max(0.0, ended - started)
    case = _case(suite, f"{name}.phase", phase.name, seconds)
    parts = [each.text for each in reasons if each.kind is Kind.PHASE and each.name == phase.name]
    nothing = [each.text for each in reasons if each.kind is Kind.NOTHING_ENDED and each.name == phase.name]
    if ended is None and parts:
        _outcome(case, "error", "incomplete", " ".join(dict.fromkeys(parts)))
    elif ended is not None and nothing:
        _outcome(case, "failure", "nothing ended", " ".join(dict.fromkeys(nothing)))
    elif ended is None:
        because = document.incomplete_because
        _outcome(case, "skipped", None, "The phase never started" + ("" if because is None else f": {because}"))


def _case(suite: Element, class_name: str, name: str, seconds: float) -> Element:
    return SubElement(
        suite, "testcase", {"classname": xml_text(class_name), "name": xml_text(name), "time": f"{seconds:.3f}"}
    )


def _say(case: Element, tag: str, kind: str, texts: Sequence[str]) -> None:
    """Add the outcome of a test that did not pass, if there are ``texts``."""
    if texts:
        _outcome(case, tag, kind, " ".join(texts))


def _outcome(case: Element, tag: str, kind: str | None, message: str) -> None:
    attributes = {"message": xml_text(message)}
    if kind is None:  # "skipped" takes no type
        SubElement(case, tag, attributes)
    else:
        SubElement(case, tag, {**attributes, "type": kind}).text = attributes["message"]


def _finished(suite: Element, name: str, document: Document) -> bytes:
    counts = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "time": f"{document.duration_s:.3f}",
    }
    suites = Element("testsuites", {"name": NAMELESS, **counts})
    skipped = str(len(suite.findall("testcase/skipped")))
    suite.attrib.update(name=xml_text(name), **counts, skipped=skipped, **_timestamp(document.started))
    suites.append(suite)
    text: bytes = tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _timestamp(started: str) -> dict[str, str]:
    """When the suite started, in UTC: the schemas allow neither fractions nor a time zone."""
    try:
        moment = datetime.fromisoformat(started).astimezone(UTC)
    except (ValueError, OverflowError):
        return {}
    return {"timestamp": moment.replace(tzinfo=None).isoformat(timespec="seconds")}


def xml_text(text: str) -> str:
    """``text`` with an escape like ``\\x1b`` for each character that XML does not allow."""
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
