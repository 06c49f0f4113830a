"""What a CI system sees of a run."""

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.errors import OperatorError
from agent.measure.limits import LimitVerdict
from agent.measure.metrics import Metrics
from agent.measure.summaries import PhaseSummary
from agent.report.document import Resources
from agent.report.junit import junit, write_junit
from agent.report.results import RunInfo, results

START = datetime(2026, 1, 31, 13, 30, 15, 250_000, tzinfo=UTC)
KEPT_UP = {
    "worker": 0,
    "lag": {"p50": 1.0, "p99": 2.0, "max": 3.0},
    "cpu_s": 1.0,
    "cpu_by_second": [],
    "max_rss_kib": 9,
}

# What may stand where. Source: junit-10.xsd of Jenkins's xUnit plugin, JUnit.xsd of Windy Road.
ATTRIBUTES = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped", "timestamp"},
        {"name", "tests", "failures", "errors", "time"},
    ),
    "properties": (set(), set()),
    "property": ({"name", "value"}, {"name", "value"}),
    "testcase": ({"name", "time", "classname"}, {"name", "time", "classname"}),
    "skipped": ({"message", "type"}, set()),
    "error": ({"message", "type"}, {"type"}),
    "failure": ({"message", "type"}, {"type"}),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure"},
}


def document(**facts):
    name = facts.pop("name", "evening")
    return results(
        Metrics(),
        RunInfo("1.2.3", "orchard", 50, START, 12.3456, name=name),
        Resources(1.0, 1),
        **{"generator": [KEPT_UP], **facts},
    )


def phase(name, started_s, ended_s):
    counts = dict.fromkeys(("planned", "started", "done", "failed", "late", "dropped"), 0)
    return PhaseSummary(name=name, kind="checkin", started_s=started_s, ended_s=ended_s, **counts)


def checked(octets):
    """The suite, after the rules of the schemas were checked."""
    suites = ET.fromstring(octets)
    assert suites.tag == "testsuites"
    for element in suites.iter():
        allowed, required = ATTRIBUTES[element.tag]
        assert required <= set(element.attrib) <= allowed
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    [suite] = suites
    assert [child.tag for child in suite][:1] == ["properties"]
    cases = suite.findall("testcase")
    for element in (suites, suite):
        assert int(element.get("tests")) == len(cases)
        assert int(element.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(element.get("errors")) == len(suite.findall("testcase/error"))
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    assert all(len(case) <= 1 for case in cases)
    assert all(re.fullmatch(r"[0-9]+\.[0-9]+", each.get("time")) for each in (suites, suite, *cases))
    if "timestamp" in suite.attrib:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    return suite


def outcomes(suite):
    """What each test came to: None, or the tag and the message."""
    return {
        (case.get("classname"), case.get("name")): next(((child.tag, child.get("message")) for child in case), None)
        for case in suite.findall("testcase")
    }


def test_passed_run_has_passed_tests():
    suite = checked(
        junit(
            document(
                phases=[phase("enroll", 0.0, 2.5)],
                limits=[LimitVerdict("push.errors == 0", True, "0", "push.errors was 0; the limit is == 0.")],
            )
        )
    )

    assert outcomes(suite) == {
        ("evening.run", "complete"): None,
        ("evening.run", "no unexpected failures"): None,
        ("evening.run", "results written"): None,
        ("evening.run", "load generator kept up"): None,
        ("evening.phase", "enroll"): None,
        ("evening.limit", "push.errors == 0"): None,
    }
    assert (suite.get("name"), suite.get("timestamp"), suite.get("time")) == (
        "evening",
        "2026-01-31T13:30:15",
        "12.346",
    )
    assert suite.find("testcase[@name='enroll']").get("time") == "2.500"
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties == {"version": "1.2.3", "seed": "orchard", "devices": "50"}


def test_failed_limit_is_a_failure_with_its_sentence():
    sentence = "session.p99 was 612 ms; the limit is < 500 ms."
    suite = checked(junit(document(limits=[LimitVerdict("session.p99 < 500ms", False, "612 ms", sentence)])))

    assert outcomes(suite)["evening.limit", "session.p99 < 500ms"] == ("failure", sentence)
    assert suite.find("testcase/failure").text == sentence


def test_incomplete_run_and_its_phase_are_errors():
    suite = checked(
        junit(
            document(
                phases=[phase("enroll", 0.0, 2.5), phase("wake", 2.5, None), phase("reset", None, None)],
                incomplete_because="worker 1 died.",
            )
        )
    )
    found = outcomes(suite)

    assert found["evening.run", "complete"] == ("error", "The run did not finish: worker 1 died.")
    assert found["evening.phase", "enroll"] is None
    assert found["evening.phase", "wake"] == ("error", "The phase wake did not finish: worker 1 died.")
    assert found["evening.phase", "reset"] == ("skipped", "The phase never started: worker 1 died.")


def test_overloaded_generator_is_a_skipped_test():
    suite = checked(junit(document(generator=[])))
    assert outcomes(suite)["evening.run", "load generator kept up"] == (
        "skipped",
        "The load generator did not measure itself.",
    )
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")


def test_repeated_limit_is_one_test():
    verdict = LimitVerdict("push.errors == 0", True, "0", "push.errors was 0; the limit is == 0.")
    assert len(outcomes(checked(junit(document(limits=[verdict, verdict]))))) == 5


def test_unnamed_scenario_has_a_suite():
    assert checked(junit(document(name=""))).get("name") == "lom-agent"


def test_invalid_start_is_omitted():
    assert "timestamp" not in checked(junit(replace(document(), started="yesterday"))).attrib


@given(st.text(max_size=30))
def test_any_text_gives_valid_xml(text):
    suite = checked(
        junit(
            document(
                name=f"a{text}",
                phases=[phase(f"b{text}", 0.0, None)],
                limits=[LimitVerdict(f"c{text}", False, text, text)],
                incomplete_because=text,
            )
        )
    )
    assert len(suite.findall("testcase")) == 6


def test_characters_outside_xml_are_escaped():
    suite = checked(junit(document(incomplete_because="<b> & \x1b[31m \0 \ud800 \ufffe ü 😀")))
    assert outcomes(suite)["evening.run", "complete"] == (
        "error",
        "The run did not finish: <b> & \\x1b[31m \\x00 \\ud800 \\ufffe ü 😀.",
    )


def test_junit_file_is_written_atomically(tmp_path):
    path = tmp_path / "new" / "junit.xml"
    assert write_junit(path, document()) == path
    assert path.read_bytes() == junit(document())
    with pytest.raises(OperatorError, match="cannot be written"):
        write_junit(tmp_path, document())
