"""One run, one outcome: the exit status, JUnit, the terminal, the page and results.json never differ."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path
from typing import Any

import documents
import pytest
from command import lom_agent
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from servers import unused_port

from agent.load.conductor.facts import INTERRUPTED
from agent.report.html import report_html
from agent.report.junit import junit
from agent.report.merging import merge_documents
from agent.report.outcome import Kind, outcome
from agent.report.results import with_outcome
from agent.report.terminal import print_summary
from agent.report.verdict import Level, verdict

pytestmark = pytest.mark.slow

NAMES = st.sampled_from(["session", "push", "enqueue"])
COUNTS = st.sampled_from([0, 0, 1, 3])
CUT_SHORT = {"complete": False, "incomplete_because": INTERRUPTED}
SECONDS = st.sampled_from([None, 0.0, 1.5])


def phase(**counts: int) -> dict[str, Any]:
    none = dict.fromkeys(("planned", "started", "done", "failed", "late", "dropped"), 0)
    return {"name": "look", "kind": "checkin", "started_s": 0.0, "ended_s": 1.0, **none, **counts}


def operation(count: int, errors: int) -> dict[str, Any]:
    return documents.nothing_succeeded(count) | {"errors": min(count, errors)}


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    """Documents that say anything of a run, also what contradicts itself."""
    document = documents.smallest()
    document["complete"] = draw(st.booleans())
    if draw(st.booleans()):
        document["incomplete_because"] = draw(st.sampled_from([INTERRUPTED, "worker 1 died.", ""]))
    if draw(st.integers(0, 4)) == 0:
        document["signal"] = draw(st.sampled_from([2, 15]))
    document["operations"] = draw(st.dictionaries(NAMES, st.builds(operation, COUNTS, COUNTS), max_size=3))
    error = st.fixed_dictionaries(
        {"operation": NAMES, "kind": st.just("broken"), "count": COUNTS, "example": st.just("")}
    )
    document["errors"] = draw(st.lists(error, max_size=2))
    limits = st.sampled_from(["session.errors == 0", "push.errors <= 5%", "session.p99 < 1s", "no limit", ""])
    limit = st.fixed_dictionaries(
        {"limit": limits, "ok": st.booleans(), "found": st.none(), "sentence": st.sampled_from(["", "It was so."])},
        optional={"reliable": st.booleans()},
    )
    document["limits"] = draw(st.lists(limit, max_size=3))
    counted = dict.fromkeys(("planned", "started", "done", "failed", "late", "dropped"), COUNTS)
    names = st.sampled_from(["look", "ask"])
    phase = st.fixed_dictionaries({"name": names, "kind": names, "started_s": SECONDS, "ended_s": SECONDS, **counted})
    document["phases"] = draw(st.lists(phase, max_size=3))
    document["generator"] |= {"embedded_lab": draw(st.booleans()), "trustworthy": draw(st.booleans())}
    return document


@examples(25, explored=50)
@given(results())
def test_every_output_agrees_on_the_outcome(document: dict[str, Any]) -> None:
    found = outcome(documents.typed(document))
    assert (found.exit_status == 0) is found.passed

    suites = ET.fromstring(junit(documents.typed(document)))
    red = (int(suites.get("failures", "0")), int(suites.get("errors", "0"))) != (0, 0)
    assert red is not found.passed
    text = "".join(each.get("message", "") for tag in ("failure", "error") for each in suites.iter(tag))
    assert all(reason.text in text for reason in found.reasons)

    judged = verdict(documents.typed(document))
    assert (judged.level is Level.BAD) is not found.passed

    console = Console(file=StringIO(), record=True, width=200, color_system="truecolor", force_terminal=True)
    print_summary(console, documents.typed(document))
    last = console.export_text(styles=True).splitlines()[-1]
    assert ("\x1b[1;31m" in last) is not found.passed
    assert not ("All good" in last and not found.passed)

    assert with_outcome(documents.typed(document)).outcome.exit_status == found.exit_status


def test_phases_with_the_same_name_report_every_reason() -> None:
    counts = dict.fromkeys(("planned", "started", "done", "failed", "late", "dropped"), 0)
    phases = [{"name": "look", "kind": "look", "started_s": at, "ended_s": None, **counts} for at in (None, 0.0)]
    suites = ET.fromstring(junit(documents.typed(documents.smallest() | {"phases": phases})))
    message = "The phase look never started. The phase look did not finish."
    assert [error.get("message") for error in suites.iter("error")] == [message] * 2


@pytest.mark.parametrize("passed", [True, False])
def test_report_agrees_on_the_outcome(passed: bool) -> None:
    document = documents.smallest() | {"complete": passed}
    assert ('<header class="verdict bad">' in report_html([documents.typed(document)])) is not passed


@examples(25, explored=50)
@given(results(), results())
def test_merged_outcome_passes_only_if_every_part_passes(one: Any, other: Any) -> None:
    parts = []
    for document in (one, other):
        document |= {"operations": {}, "errors": [], "limits": []}
        parts.append(document)
    typed = [documents.typed(part) for part in parts]
    merged = outcome(merge_documents(typed))
    cut_short = [any(each.kind is Kind.RUN for each in outcome(part).reasons) for part in typed]
    assert any(each.kind is Kind.RUN for each in merged.reasons) is any(cut_short)


@pytest.mark.parametrize(
    ("changes", "exit_status", "expected"),
    [
        ({}, 0, []),
        ({"operations": {"push": operation(93, 3)}}, 1, ["push: 3 of 93 failed. No limit allows failures."]),
        (CUT_SHORT | {"signal": 2}, 130, [f"The run did not finish: {INTERRUPTED}."]),
        (CUT_SHORT, 1, [f"The run did not finish: {INTERRUPTED}."]),
        ({"phases": [phase(done=1, started=1, dropped=19)]}, 0, []),
        ({"phases": [phase()]}, 0, []),  # such as an idle one, or one for Macs of another worker
        (
            {"phases": [phase(dropped=1_000, started=2, cut_short=2)]},
            1,
            ["The phase look measured nothing: of its operations 1,000 dropped and 2 cut short, none done."],
        ),
    ],
)
def test_exit_status_and_reasons(changes: dict[str, Any], exit_status: int, expected: list[str]) -> None:
    found = outcome(documents.typed(documents.smallest() | changes))
    assert (found.exit_status, [reason.text for reason in found.reasons]) == (exit_status, expected)


def test_uncovered_failure_is_red_in_every_output_file(tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "junit.xml"
    url = f"https://127.0.0.1:{unused_port()}/enroll"
    run = ["run", "--devices", "2", "--workers", "1", "--enroll", url, "--quiet"]
    done = lom_agent(*run, "--out", str(out), "--junit", str(path))
    assert done.returncode == 1
    document = json.loads((out / "results.json").read_bytes())
    assert document["outcome"]["exit_status"] == 1
    assert document["outcome"]["reasons"][0].startswith("enroll: 2 of 2 failed")
    failure, empty = ET.fromstring(path.read_bytes()).findall("testsuite/testcase/failure")
    assert failure.get("message", "").startswith("enroll: 2 of 2 failed")
    assert empty.get("message", "").startswith("The phase first_session measured nothing")
    assert '<header class="verdict bad">' in (out / "report.html").read_text(encoding="utf-8")


FULL = """
import errno, os
replace = os.replace
def full(source, target, **options):
    if str(target).endswith("results.json"):
        raise OSError(errno.ENOSPC, "No space left on device", target)
    return replace(source, target, **options)
os.replace = full
"""


def test_unwritable_results_are_red_in_the_junit_file(tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "junit.xml"
    url = f"https://127.0.0.1:{unused_port()}/enroll"
    run = ["run", "--devices", "2", "--workers", "1", "--enroll", url, "--quiet"]
    done = lom_agent(*run, "--out", str(out), "--junit", str(path), patch=FULL)
    assert done.returncode == 2
    [error] = ET.fromstring(path.read_bytes()).findall("testsuite/testcase[@name='results written']/error")
    assert "cannot be written" in error.get("message", "")
