"""Verdicts: levels, capabilities, probes that stopped, checks that fail, waivers, and the exit status."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from conform_runs import header
from msgspec import structs
from twisted.logger import LogLevel, capturedLogs

from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, NoteRecord, ProbeRecord, Trace
from agent.conform.verdicts.judge import Verdict, Waived, judge
from agent.conform.verdicts.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.conform.verdicts.waivers import Waiver


def entry(id_: str, check: Any, *, level: Level = Level.MUST, needs: str | None = None) -> Requirement:
    return Requirement(id_, level, f"It {level.value} be so.", Source("a page"), ("lom",), ("one",), check, needs)


def fails(evidence: Evidence) -> Finding:
    return failed("this", "that", *evidence.notes("done"))


def passes(evidence: Evidence) -> Finding:
    return passed(*evidence.notes("done"))


def unknown(_evidence: Evidence) -> Finding:
    return not_tested("Nothing happened.")


def trace(outcome: Any = "done", reason: str = "") -> Trace:
    return Trace(
        header(),
        [
            NoteRecord(number=1, probe="one", at=0.0, step="done"),
            NoteRecord(number=2, probe="other", at=0.0, step="done"),
            ProbeRecord(number=3, probe="one", at=0.0, outcome=outcome, reason=reason),
        ],
    )


def verdicts(*requirements: Requirement, **more: Any) -> list[Verdict]:
    judged = judge(more.pop("trace", trace()), requirements, more.pop("capabilities", {}), **more)
    return [each.verdict for each in judged.judged]


def test_only_a_must_that_failed_is_a_fail() -> None:
    entries = [entry(f"A-0{number}", fails, level=level) for number, level in enumerate(Level)]
    judged = judge(trace(), entries, {})
    assert [each.verdict for each in judged.judged] == [Verdict.FAIL, Verdict.WARN, Verdict.WARN]
    assert judged.exit_status == 1
    assert judge(trace(), entries[1:], {}).exit_status == 0


@pytest.mark.parametrize(("token_update", "expected"), [(200, 0), (202, 0), (500, 3), (None, 3)])
def test_a_run_in_which_no_mac_could_enroll_is_3(token_update: int | None, expected: int) -> None:
    asked = [("enroll", ""), ("checkin", "Authenticate"), ("checkin", "TokenUpdate")]
    exchanges = [
        ExchangeRecord(
            number=number, probe="one", at=0.0, seconds=0.1, udid="A", kind=kind, message_type=what, status=status
        )
        for number, ((kind, what), status) in enumerate(zip(asked, (200, 200, token_update), strict=True), start=10)
    ]
    shown = trace("stopped", "It did not enroll.")
    shown.records += exchanges
    others = [entry("A-01", unknown), entry("A-02", passes)]
    shown.records.append(ProbeRecord(number=20, probe="one", at=0.0, outcome="done"))
    assert judge(shown, others, {}).exit_status == expected
    assert judge(shown, [entry("A-01", fails)], {}).exit_status == 1  # on evidence of its own
    assert judge(Trace(header()), [entry("A-01", unknown)], {}).exit_status == 3  # a trace without its records


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (403, 0), (None, 3)])
def test_a_run_whose_server_stopped_answering_is_3(status: int | None, expected: int) -> None:
    def exchange(number: int, kind: Any, what: str, answer: int | None) -> ExchangeRecord:
        return ExchangeRecord(
            number=number, probe="one", at=0.0, seconds=0.1, udid="A", kind=kind, message_type=what, status=answer
        )

    shown = trace()
    shown.records += [exchange(10, "checkin", "TokenUpdate", 200), exchange(11, "enroll", "", status)]
    shown.records.append(exchange(12, "checkin", "SetBootstrapToken", None))  # the probe ended meanwhile
    assert judge(shown, [entry("A-01", passes)], {}).exit_status == expected


def test_the_counts_are_of_all_five_verdicts() -> None:
    entries = [entry("A-01", passes), entry("A-02", fails), entry("A-03", unknown), entry("A-04", passes, needs="acme")]
    judged = judge(trace(), entries, {"acme": False})
    assert judged.counts == {"pass": 1, "fail": 1, "warn": 0, "not applicable": 1, "not tested": 1}


def test_a_capability_that_the_server_lacks_is_not_applicable_and_another_one_is_judged() -> None:
    assert verdicts(entry("A-01", fails, needs="acme"), capabilities={"acme": False}) == [Verdict.NOT_APPLICABLE]
    assert verdicts(entry("A-01", fails, needs="acme"), capabilities={"acme": True}) == [Verdict.FAIL]
    assert verdicts(entry("A-01", fails, needs="acme")) == [Verdict.FAIL]


def test_a_check_sees_the_records_of_its_probes_alone() -> None:
    seen: list[int] = []

    def look(evidence: Evidence) -> Finding:
        seen.extend(record.number for record in evidence.records)
        return passed()

    assert verdicts(entry("A-01", look)) == [Verdict.PASS]
    assert seen == [1, 3]


@pytest.mark.parametrize("outcome", ["stopped", "not run"])
def test_what_a_stopped_probe_left_can_fail_but_never_pass(outcome: str) -> None:
    stopped = trace(outcome, "It stopped here.")
    judged = judge(stopped, [entry("A-01", passes), entry("A-02", fails)], {}).judged
    assert [each.verdict for each in judged] == [Verdict.NOT_TESTED, Verdict.FAIL]
    assert judged[0].finding.reason == "It stopped here."


def test_a_probe_without_records_and_one_without_an_end_are_not_tested() -> None:
    assert verdicts(entry("A-01", passes), trace=Trace(header())) == [Verdict.NOT_TESTED]
    cut = Trace(header(), trace().records[:1])
    assert verdicts(entry("A-01", passes), trace=cut) == [Verdict.NOT_TESTED]


def test_a_check_that_raises_judges_nothing_and_leaves_the_others_alone() -> None:
    def broken(_evidence: Evidence) -> Finding:
        raise KeyError("Status")

    with capturedLogs() as events:
        judged = judge(trace(), [entry("A-01", broken), entry("A-02", passes)], {}).judged
    assert [each["log_level"] for each in events] == [LogLevel.debug]  # no traceback on standard error
    assert [each.verdict for each in judged] == [Verdict.NOT_TESTED, Verdict.PASS]
    assert "KeyError" in judged[0].finding.reason


def test_what_judges_nothing_is_2_and_no_success() -> None:
    lacking = entry("A-02", passes, needs="acme")
    assert judge(trace(), [entry("A-01", unknown), lacking], {"acme": False}).exit_status == 2
    assert judge(trace(), [entry("A-01", unknown), lacking], {}).exit_status == 0
    assert judge(trace(), [lacking], {"acme": False}).exit_status == 2


def test_waivers_are_those_of_the_day_of_the_trace_in_utc() -> None:
    late = structs.replace(header(), started=datetime(2026, 9, 30, 23, 59, tzinfo=UTC).timestamp())
    waiver = Waiver(id="A-01", reason="known", until=UNTIL)
    for seconds, expected in ((0, Waived.EXPECTED), (60, Waived.EXPIRED)):
        shown = Trace(structs.replace(late, started=late.started + seconds), trace().records)
        assert judge(shown, [entry("A-01", fails)], {}, [waiver]).judged[0].waived is expected


UNTIL = date(2026, 9, 30)  # the trace is of 2026-09-21


@pytest.mark.parametrize(
    ("check", "until", "waived", "status"),
    [
        (fails, None, Waived.EXPECTED, 4),
        (fails, UNTIL, Waived.EXPECTED, 4),
        (fails, date(2026, 9, 20), Waived.EXPIRED, 1),
        (passes, UNTIL, Waived.STALE, 4),
        (passes, date(2026, 9, 20), Waived.NO, 0),
        (unknown, UNTIL, Waived.NO, 2),
    ],
)
def test_a_waiver_expects_a_failure_until_its_day(check: Any, until: Any, waived: Waived, status: int) -> None:
    waiver = Waiver(id="A-01", reason="known", until=until)
    judged = judge(trace(), [entry("A-01", check)], {}, [waiver])
    assert (judged.judged[0].waived, judged.exit_status) == (waived, status)


def test_a_failure_without_a_waiver_outweighs_those_with_one() -> None:
    waiver = Waiver(id="A-01", reason="known")
    assert judge(trace(), [entry("A-01", fails), entry("A-02", fails)], {}, [waiver]).exit_status == 1
