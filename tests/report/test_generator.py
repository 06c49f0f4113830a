"""Which phases the load generator was overloaded in, why, and what that makes of the limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.measure.limits import judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import Exchange
from agent.measure.summaries import PhaseSummary
from agent.measure.timeline import Second, SecondOfOperation
from agent.report.generator import judged_generator, unreliable

PHASE = PhaseSummary(
    name="look", kind="command", started_s=0.0, ended_s=5.0, planned=9, started=9, done=9, failed=0, late=0, dropped=0
)


def waited(name: str, waits: int, seconds: float) -> PhaseSummary:
    """An enrollment that waited for RSA keys."""
    return msgspec.structs.replace(PHASE, name=name, kind="enroll", key_waits=waits, key_wait_s=seconds)


def span(phase: str, **changes: Any) -> dict[str, Any]:
    """One phase of ten seconds in which nothing was wrong."""
    usual = {
        "elapsed_s": 10.0, "cpu_s": 2.0, "busy_s": 0.0, "lagging_s": 0.0, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0,
        "queued_s": 0.1, "stolen_s": 0.0, "pressed_s": None, "started": 200, "late": 0,
    }  # fmt: skip
    return {"phase": phase, **usual, **changes}


def judged(*spans: dict[str, Any], worker: Any = 0) -> Any:
    lag = {"p50": 1.0, "p99": 2.0, "max": 7000.0}
    facts = {"worker": worker, "lag": lag, "cpu_s": 4.0, "cpu_by_second": [0.2] * 20, "max_rss_kib": 9}
    return judged_generator([{**facts, "phases": list(spans)}])


STALL = {"lagging_s": 6.9, "p99_ms": 6900.0, "max_ms": 7000.0, "cpu_s": 0.6}


def test_overload_is_judged_per_phase_and_worker() -> None:
    found = judged(span("enroll"), span("look", **STALL), span("ask"), worker=1)
    [overload] = found.overloaded
    assert (overload.phase, overload.worker, found.trustworthy) == ("look", 1, False)
    assert overload.reason.startswith("Phase look, worker 1: the event loop lagged by 6.90 s (p99 over time;")
    assert judged(span("enroll"), span("look")).trustworthy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (STALL, "used 6% of a core and waited for a CPU in 1% of the time, which does not explain the lag"),
        ({**STALL, "queued_s": 6.0}, "in 60% of the time: other processes on this machine used the CPUs."),
        (
            {**STALL, "busy_s": 9.0, "cpu_s": 9.5},
            "95% of a core and waited for a CPU in 1% of the time: the load is too",
        ),
        ({**STALL, "stolen_s": 3.0}, "; the hypervisor took 3.0 s of this machine's CPUs"),
        ({**STALL, "queued_s": None}, "In 10.0 s the process used 6% of a core."),
        ({"busy_s": 4.0}, "over 90% of a core was used in 4 of 10 s."),
        (
            {"busy_s": 4.0, "elapsed_s": 100.0, "paused_s": 90.0},
            "over 90% of a core was used in 4 of 10 s without pauses.",
        ),
        ({"late": 17}, "17 of 200 operations started over 100 ms after they were due."),
    ],
)
def test_reason_has_the_measurement_and_only_a_proven_cause(changes: dict[str, Any], message: str) -> None:
    [overload] = judged(span("look", **changes)).overloaded
    assert message in overload.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"busy_s": 1.0},
        {"late": 2},
        {"elapsed_s": 0.4, "p99_ms": 60.0, "lagging_s": 0.02},  # one pause in a phase of a moment
        {"max_ms": 900.0, "lagging_s": 0.08, "p99_ms": 40.0},
    ],
)
def test_short_stall_is_not_an_overload(changes: dict[str, Any]) -> None:
    assert judged(span("look", **changes)).trustworthy


def test_key_wait_is_the_generators_and_affects_only_the_rate() -> None:
    metrics = Metrics()
    for seconds in (0.2, 5.7):
        metrics.stage("key", seconds)
    idle = {
        "worker": 0,
        "lag": {"p50": 1.0, "p99": 1.0, "max": 1.0},
        "cpu_s": 1.0,
        "cpu_by_second": [],
        "max_rss_kib": 1,
    }
    found = judged_generator([idle], metrics=metrics)
    assert found.reasons[0].startswith("Enrollments waited for the load generator's own RSA keys: 2 waits, p99 5.70 s.")
    assert unreliable(found.overloaded, [], []) == {"enroll.rate"}
    [long, quick] = [waited("enroll", 2, 5.9), waited("enroll again", 4, 0.01)]
    named = judged_generator([idle], metrics=metrics, phases=[PHASE, quick, long])
    assert [(each.phase, each.worker, each.kind) for each in named.overloaded] == [("enroll", None, "key")]
    assert named.reasons[0].startswith(
        "Phase enroll: enrollments waited for the load generator's own RSA keys: 2 waits, 2.95 s on average."
    )
    most = judged_generator([idle], metrics=metrics, phases=[waited("enroll", 200, 6.0), quick])
    assert [each.phase for each in most.overloaded] == ["enroll"]
    short = Metrics()
    short.stage("key", 0.01)
    assert judged_generator([idle], metrics=short).trustworthy


# Limits


PHASES = [
    msgspec.structs.replace(PHASE, name=name, started_s=at, ended_s=at + 5.0)
    for name, at in (("enroll", 0.0), ("look", 5.0))
]


def row(t: int, *operations: str) -> Second:
    ended = {name: SecondOfOperation(1, 0, None, None) for name in operations}
    return Second(t=t, operations=ended, macs={}, connections=0, pushes_waiting=0, lag_ms=None, cpu=None)


def test_only_operations_during_an_overload_are_unreliable() -> None:
    timeline = [row(0, "enroll", "checkin"), row(4, "enroll"), row(7, "session"), row(12, "push")]
    overloaded = judged(span("look", **STALL)).overloaded
    found = unreliable(overloaded, PHASES, timeline)
    assert {"session", "request"} <= found
    assert not {"enroll", "push"} & found
    everything = unreliable([msgspec.structs.replace(overloaded[0], phase=None)], PHASES, timeline)
    assert {"enroll", "session", "push"} <= everything


@pytest.mark.parametrize(
    ("text", "ok", "reliable"),
    [
        ("session.p99 < 5s", False, False),  # broken, and nobody knows by whom
        ("session.p99 < 10s", True, True),  # its own delays are in there: it holds all the more
        ("session.p50 > 1s", False, False),
        ("session.rate >= 100/s", False, False),
        ("session.rate >= 0.01/s", True, True),
        ("session.rate < 100/s", False, False),
        ("session.errors == 0", True, True),
        ("session.count >= 5", False, True),
    ],
)
def test_unreliable_limit_is_neither_passed_nor_failed(text: str, ok: bool, reliable: bool) -> None:
    metrics = Metrics()
    for second in range(2):
        metrics(Exchange("session", 1, second * 10.0, 6.1))
    found = judge(parse_limit(text), metrics, {"session"})
    assert (found.ok, found.reliable) == (ok, reliable)
    assert found.sentence.startswith("Not judged reliably, the load generator was overloaded: ") is not reliable
    assert judge(parse_limit(text), metrics, {"push"}).reliable
