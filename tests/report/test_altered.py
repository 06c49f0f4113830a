"""A run that was paused or whose rates were changed: what its results, limits and comparisons say of it."""

from __future__ import annotations

from typing import Any

import documents
import pytest
from msgspec import convert, to_builtins

from agent.measure.limits import judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.pauses import Pauses
from agent.measure.records import Exchange
from agent.measure.summaries import ChangeSummary
from agent.measure.timeline import Targets, TimeLine
from agent.report.altered import altered, changes_told, same_changes
from agent.report.compare import compare
from agent.report.html.page import report_html
from agent.report.junit import junit
from agent.report.merging import merge_documents
from agent.report.verdict import Level, verdict

PAUSES = [
    {"at_s": 10.0, "what": "pause", "by": "control"},
    {"at_s": 15.5, "what": "resume", "by": "control"},
]
FASTER = {"at_s": 20.0, "what": "rate", "phase": "look", "phase_s": 12.0, "rate": 50.0, "by": "control"}


def typed(*several: dict[str, Any]) -> list[ChangeSummary]:
    return convert(list(several), list[ChangeSummary])


def changed(*several: dict[str, Any]) -> dict[str, Any]:
    """A good run with these changes."""
    told = changes_told(typed(*several), [], 600.0)
    return documents.good() | {"changes": list(several), "changed": told}


def test_the_changes_are_told_in_one_sentence() -> None:
    [phase, *_] = documents.typed(documents.good()).phases
    phase = convert({**to_builtins(phase), "name": "look", "paused_s": 5.5}, type(phase))
    assert changes_told([], [phase], 600.0) is None
    assert changes_told(typed(*PAUSES, FASTER, {**FASTER, "rate": 60.0}), [phase], 600.0) == (
        "The running scenario was changed through the control API: paused for 5.50 s in 1 pause (look for 5.50 s); "
        "rate of the phase look changed 2 times, at last to 60 per second."
    )
    planned = [{**each, "by": "scenario"} for each in (PAUSES[0], {**FASTER, "rate": None, "factor": 2.0})]
    assert changes_told(typed(*planned), [], 600.0) == (
        "The running scenario was changed as the scenario plans: paused for 9.83 min in 1 pause; "
        "rate of the phase look changed 1 time, at last to 2 times the planned rate."
    )


def test_every_report_of_one_run_tells_its_changes() -> None:
    document = documents.typed(changed(*PAUSES, FASTER))
    assert document.changed is not None
    [said] = [each for each in verdict(document).statements if each.text == document.changed]
    assert said.level is Level.NOTE
    assert document.changed.encode() in junit(document)
    assert document.changed in report_html([document])


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ((), PAUSES, "(A: no change, B: 1 pause)"),
        ((*PAUSES, FASTER), PAUSES, "(A: 1 pause and 1 changed rate, B: 1 pause)"),
        (PAUSES, [PAUSES[0], {**PAUSES[1], "at_s": 15.6}], "(A: 1 pause, B: 1 pause)"),
        ([FASTER], [{**FASTER, "rate": 51.0}], "(A: 1 changed rate, B: 1 changed rate)"),
    ],
)
def test_runs_that_were_changed_differently_are_not_comparable(one: Any, other: Any, why: str) -> None:
    comparison = compare([documents.typed(changed(*one)), documents.typed(changed(*other))])
    assert comparison.headline == (f"Run B is not comparable with run A: the runs were not changed alike {why}")
    assert comparison.regressed


def test_a_run_is_comparable_with_its_replay() -> None:
    recorded = changed(*PAUSES, FASTER)
    replay = changed(*({**each, "by": "scenario"} for each in (*PAUSES, {**FASTER, "at_s": 20.2})))
    replay["scenario"] = {**replay["scenario"], "change": [{"at": 10.0, "what": "pause"}]}
    comparison = compare([documents.typed(recorded), documents.typed(replay)])
    assert comparison.headline == "Run B is comparable with run A: nothing changed"
    assert comparison.settings == ()
    assert not comparison.regressed


def test_merged_runs_keep_the_changes_that_they_share() -> None:
    one, other = documents.typed(changed(*PAUSES)), documents.typed(changed(*PAUSES))
    merged = merge_documents([one, other])
    assert same_changes(merged.changes, one.changes)
    assert merged.changed == one.changed
    assert merged.merged is not None
    assert not any("changes" in text for text in merged.merged.left_out)
    mixed = merge_documents([one, documents.typed(documents.good())])
    assert same_changes(mixed.changes, one.changes)
    assert mixed.merged is not None
    assert any("changes" in text for text in mixed.merged.left_out)


def sessions(*, paused: bool) -> Metrics:
    """Ten sessions per second from 0 to 10 s; with ``paused`` also 50 that end in a pause of 1,000 s after it."""
    metrics = Metrics()
    for number in range(100):
        metrics(Exchange("session", 0, number / 10, 0.1))
    if paused:
        metrics.pauses = Pauses([(10.0, 1010.0)])
        metrics.pause()
        for number in range(50):
            metrics(Exchange("session", 0, 9.9, 5.0 + number))
        metrics.resume()
        for number in range(100):
            metrics(Exchange("session", 0, 1010.0 + number / 10, 0.1))
    return metrics


def test_a_rate_has_neither_the_time_of_a_pause_nor_what_ends_in_it() -> None:
    paused = sessions(paused=True)
    assert paused.summary("session").count == 250
    assert paused.summary("session").rate_per_s == pytest.approx(sessions(paused=False).summary("session").rate_per_s)
    merged = Metrics()
    merged.pauses = paused.pauses
    merged.merge(paused.snapshot())
    assert merged.summary("session").rate_per_s == paused.summary("session").rate_per_s


def test_a_snapshot_during_a_pause_has_what_ended_in_it() -> None:
    metrics = Metrics()
    metrics(Exchange("session", 0, 0.0, 0.1))
    metrics.pause()
    metrics(Exchange("session", 0, 0.0, 0.2))
    metrics(Exchange("push", 0, 0.0, 0.2))  # the first of its kind
    assert {name: each["in_pauses"] for name, each in metrics.snapshot()["operations"].items()} == {
        "session": 1,
        "push": 1,
    }


def test_a_rate_that_a_change_may_have_missed_is_not_judged() -> None:
    low, met = parse_limit("session.rate >= 20"), parse_limit("session.rate >= 5")
    metrics = sessions(paused=True)
    found = judge(low, metrics, (), {"session"})
    assert (found.ok, found.reliable) == (False, False)
    assert found.sentence.startswith("Not judged reliably, the run was paused or its rates were changed: session.rate")
    assert judge(low, metrics, (), {"push"}).reliable
    assert judge(met, metrics, (), {"session"}).ok
    assert judge(parse_limit("session.p99 < 1us"), metrics, (), {"session"}).reliable


def test_only_operations_that_ended_after_the_first_change_are_altered() -> None:
    line = TimeLine()
    line.add(9, {"operations": {"enroll": {"count": 1}}})
    line.add(10, {"operations": {"session": {"count": 1}}})
    rows = line.rows(lambda t: Targets(0.5 if t == 10 else 0.0, {"look": 4.0}))
    assert altered(typed(*PAUSES), rows) == {"session"}
    assert altered([], rows) == frozenset()
    assert [(row.t, row.paused_s, row.rates) for row in rows] == [(9, None, {"look": 4.0}), (10, 0.5, {"look": 4.0})]
    assert not {"paused_s", "rates"} & to_builtins(line.rows()[0]).keys()
