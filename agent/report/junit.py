"""The verdicts on a run as JUnit XML, which CI systems show as tests.

It is made of a results document and says what the operator asked for: tests for the run as a whole, one for each phase
and one for each limit. What the load generator says of itself is a test that is skipped where it was overloaded. The
format has no standard; this keeps to the schema of Jenkins (junit-10.xsd) and, but for the host's name that it would
tell, to the one known for Ant (JUnit.xsd of Windy Road).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from agent.files import write_file
from agent.report.outcome import Kind, Reason, outcome_of
from agent.report.schema import PhaseDocument, ResultsDocument

NAMELESS = "lom-agent"  # the suite of a scenario that has no name

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # Source: XML 1.0, 2.2, Char


def write_junit(path: str | os.PathLike[str], document: ResultsDocument, unwritten: Sequence[str] = ()) -> Path:
    """Write the XML to ``path``, all at once; return it. Raises OperatorError where it cannot be written."""
    return write_file(Path(path), junit(document, unwritten), make_folder=True)


def junit(document: ResultsDocument, unwritten: Sequence[str] = ()) -> bytes:
    """The XML: one suite, named for the scenario, of the tests ``run``, ``phase`` and ``limit``.

    There is a failure or an error exactly where the command's exit status is not 0, as `agent.report.outcome` says:
    a limit that did not hold and operations that no limit allows to fail are failures; a run or a phase that did not
    come to its end, and a result that could not be written (``unwritten``), are errors. A phase that never started,
    and a load generator that was overloaded, are skipped tests. Raises OperatorError for what is no document.
    """
    reasons = outcome_of(document).reasons
    name = document["name"] or NAMELESS
    suite = Element("testsuite")
    _properties(suite, document)
    _run(suite, name, document, reasons, unwritten)
    for phase in document["phases"]:
        _phase(suite, name, phase, document, reasons)
    for text in dict.fromkeys(verdict["limit"] for verdict in document["limits"]):
        case = _case(suite, f"{name}.limit", text, 0.0)
        verdicts = [verdict for verdict in document["limits"] if verdict["limit"] == text]
        kind = "limit" if all(verdict.get("reliable", True) for verdict in verdicts) else "not judged"
        _say(case, "failure", kind, [each.text for each in reasons if each.kind is Kind.LIMIT and each.name == text])
    return _finished(suite, name, document)


def _properties(suite: Element, document: ResultsDocument) -> None:
    properties = SubElement(suite, "properties")
    facts = {"version": document["version"], "seed": document["seed"], "devices": document["devices"]}
    for key, fact in facts.items():
        SubElement(properties, "property", {"name": key, "value": _xml(str(fact))})
    for name, operation in document["operations"].items():
        count, failed, cut_short = operation["count"], operation["errors"], operation.get("cut_short", 0)
        value = f"{count + cut_short} started, {count - failed} succeeded, {failed} failed, {cut_short} cut short"
        SubElement(properties, "property", {"name": _xml(name), "value": value})


def _run(
    suite: Element, name: str, document: ResultsDocument, reasons: Sequence[Reason], unwritten: Sequence[str]
) -> None:
    case = _case(suite, f"{name}.run", "complete", document["duration_s"])
    _say(case, "error", "incomplete", [each.text for each in reasons if each.kind is Kind.RUN])
    case = _case(suite, f"{name}.run", "no unexpected failures", 0.0)
    _say(case, "failure", "failures", [each.text for each in reasons if each.kind is Kind.FAILURES])
    case = _case(suite, f"{name}.run", "results written", 0.0)
    _say(case, "error", "unwritten", unwritten)
    case = _case(suite, f"{name}.run", "load generator kept up", 0.0)
    if not document["generator"]["trustworthy"]:
        _outcome(case, "skipped", None, " ".join(document["generator"]["reasons"]) or "It did not.")


def _phase(
    suite: Element, name: str, phase: PhaseDocument, document: ResultsDocument, reasons: Sequence[Reason]
) -> None:
    started, ended = phase["started_s"], phase["ended_s"]
    seconds = 0.0 if started is None or ended is None else max(0.0, ended - started)
    case = _case(suite, f"{name}.phase", phase["name"], seconds)
    said = [each.text for each in reasons if each.kind is Kind.PHASE and each.name == phase["name"]]
    if ended is None and said:
        _outcome(case, "error", "incomplete", said[0])
    elif ended is None:
        because = document.get("incomplete_because")
        _outcome(case, "skipped", None, "The phase never started" + ("" if because is None else f": {because}"))


def _case(suite: Element, class_name: str, name: str, seconds: float) -> Element:
    return SubElement(suite, "testcase", {"classname": _xml(class_name), "name": _xml(name), "time": f"{seconds:.3f}"})


def _say(case: Element, tag: str, kind: str, texts: Sequence[str]) -> None:
    """What was wrong with a test, if anything was."""
    if texts:
        _outcome(case, tag, kind, " ".join(texts))


def _outcome(case: Element, tag: str, kind: str | None, message: str) -> None:
    attributes = {"message": _xml(message)}
    if kind is None:  # "skipped" takes no type
        SubElement(case, tag, attributes)
    else:
        SubElement(case, tag, {**attributes, "type": kind}).text = attributes["message"]


def _finished(suite: Element, name: str, document: ResultsDocument) -> bytes:
    counts = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "time": f"{document['duration_s']:.3f}",
    }
    suites = Element("testsuites", {"name": NAMELESS, **counts})
    skipped = str(len(suite.findall("testcase/skipped")))
    suite.attrib.update(name=_xml(name), **counts, skipped=skipped, **_timestamp(document["started"]))
    suites.append(suite)
    text: bytes = tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _timestamp(started: str) -> dict[str, str]:
    """When the suite started, UTC: the schemas know no fractions and no time zone."""
    try:
        moment = datetime.fromisoformat(started).astimezone(UTC)
    except (ValueError, OverflowError):
        return {}
    return {"timestamp": moment.replace(tzinfo=None).isoformat(timespec="seconds")}


def _xml(text: str) -> str:
    """``text`` with each character that XML cannot hold as an escape like ``\\x1b``."""
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
