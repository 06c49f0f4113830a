"""Limits on the results: their syntax, when they hold, and the sentence about each."""

import itertools
import operator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import LomAgentError, OperatorError
from agent.measure.limits import Limit, LimitVerdict, judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS, STAGES, Exchange, Failure

NO = Failure("peer", "no")
METRICS = ("p50", "p90", "p95", "p99", "p99.9", "max", "mean")


def measured():
    """1000 sessions of 1 to 1000 ms in ten seconds and 9 that failed; ten pushes that all failed; a stage."""
    metrics = Metrics()
    for ms in range(1, 1001):
        metrics(Exchange("session", 0, 0.0, ms / 1000))
    for _ in range(9):
        metrics(Exchange("session", 0, 0.0, 10.0, NO))
    for _ in range(10):
        metrics(Exchange("push", 0, 0.0, 1.0, NO))
    for _ in range(3):
        metrics.late("session")
    metrics.dropped("session", "the Mac was off", 991)
    metrics.dropped("command", "the Mac was off", 2)
    metrics.stage("connect", 0.004)
    return metrics


def verdict(text):
    return judge(parse_limit(text), measured())


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("session.p99 < 500ms", Limit("session.p99 < 500ms", "session", "p99", "<", Fraction(500), "ms")),
        (" push.p99.9<=1.5s ", Limit("push.p99.9<=1.5s", "push", "p99.9", "<=", Fraction(3, 2), "s")),
        ("connect.max > 3 us", Limit("connect.max > 3 us", "connect", "max", ">", Fraction(3), "us")),
        ("connect.mean > 3µs", Limit("connect.mean > 3µs", "connect", "mean", ">", Fraction(3), "µs")),
        ("lom_setup.p50 >= 2m", Limit("lom_setup.p50 >= 2m", "lom_setup", "p50", ">=", Fraction(2), "m")),
        ("push.errors == 0", Limit("push.errors == 0", "push", "errors", "==", Fraction(0), "")),
        ("push.errors < 0.1%", Limit("push.errors < 0.1%", "push", "errors", "<", Fraction(1, 10), "%")),
        ("return.late < 1 %", Limit("return.late < 1 %", "return", "late", "<", Fraction(1), "%")),
        ("enqueue.dropped <= 7", Limit("enqueue.dropped <= 7", "enqueue", "dropped", "<=", Fraction(7), "")),
        ("delivery.count >= 100", Limit("delivery.count >= 100", "delivery", "count", ">=", Fraction(100), "")),
        ("checkin.rate > 12.5", Limit("checkin.rate > 12.5", "checkin", "rate", ">", Fraction(25, 2), "")),
        ("checkin.rate > 12.5/s", Limit("checkin.rate > 12.5/s", "checkin", "rate", ">", Fraction(25, 2), "/s")),
        ("handshake_resumed.count > 0", Limit("handshake_resumed.count > 0", "handshake_resumed", "count", ">", 0, "")),
    ],
)
def test_a_limit_is_read(text, limit):
    assert parse_limit(text) == limit


@pytest.mark.parametrize("subject", OPERATIONS + STAGES)
def test_every_operation_and_stage_has_every_latency_in_every_unit(subject):
    for metric, unit in itertools.product(METRICS, ["us", "ms", "s", "m"]):
        limit = parse_limit(f"{subject}.{metric} < 5{unit}")
        assert (limit.name, limit.metric, limit.unit) == (subject, metric, unit)


@pytest.mark.parametrize(
    ("text", "taught"),
    [
        ("", "Expected a limit, OPERATION.METRIC COMPARISON VALUE.*found ''"),
        ("session", "such as session.p99 < 500ms"),
        ("session.p99", "such as"),
        ("session.p99 500ms", "such as"),
        ("session.p99 != 500ms", "such as"),
        ("session.p99 < fast", "such as"),
        ("session.p99 < -5ms", "such as"),
        ("session.p99 < 1e9ms", "such as|found"),
        ("session.p99 < 5ms now", "such as"),
        ("session.p99 < " + "9" * 500, "such as"),
        ("x" * 100_000, "such as"),
        ("sesion.p99 < 5ms", r"expected an operation or a stage out of enroll, .*'sesion'\. Did you mean session\?"),
        ("reboot.p99 < 5ms", r"expected an operation or a stage out of .*found 'reboot'\.$"),
        ("session.p98 < 5ms", r"expected a metric out of p50, .*'p98'\. Did you mean p9"),
        ("session.error < 5", r"Did you mean errors\?"),
        ("session.p99 < 500", "expected a number with us or µs or ms or s or m for p99, found 500"),
        ("session.p99 < 500%", "found 500%"),
        ("session.p99 < 500min", "found 500min"),
        ("session.errors < 5ms", "expected a number with no unit or % for errors, found 5ms"),
        ("session.count < 5%", "expected a number with no unit for count"),
        ("session.rate < 5/m", "expected a number with no unit or /s for rate"),
        ("connect.errors < 5", "connect is a stage, which has only p50, .*, count"),
        ("connect.rate < 5", "connect is a stage"),
        ("connect.p98 < 5ms", "expected a metric"),
    ],
)
def test_invalid_limit_is_refused_with_a_suggestion(text, taught):
    with pytest.raises(OperatorError, match=taught):
        parse_limit(text)


@given(st.text(max_size=40) | st.from_regex(r"[a-z]+\.[a-z0-9.]+ ?[<>=]+ ?[0-9.]+[a-z%/]*", fullmatch=True))
def test_any_text_is_a_limit_or_our_error(text):
    try:
        limit = parse_limit(text)
    except LomAgentError:
        return
    assert judge(limit, measured()).limit == text.strip()


@pytest.mark.parametrize(
    ("text", "ok", "found", "sentence"),
    [
        ("session.p99 < 2s", True, "0.99 s", "session.p99 was 0.99 s; the limit is < 2 s."),
        ("session.p99 < 500ms", False, "990 ms", "session.p99 was 990 ms; the limit is < 500 ms."),
        ("session.max == 1000ms", True, "1000 ms", "session.max was 1000 ms; the limit is == 1000 ms."),
        ("session.max < 1s", False, "1 s", "session.max was 1 s; the limit is < 1 s."),
        ("session.mean <= 500.5ms", True, "500 ms", "session.mean was 500 ms; the limit is <= 500.5 ms."),
        ("session.mean < 500.4ms", False, "500.5 ms", "session.mean was 500.5 ms; the limit is < 500.4 ms."),
        ("connect.p50 < 0.1m", True, "0.0000667 m", "connect.p50 was 0.0000667 m; the limit is < 0.1 m."),
        ("connect.p50 >= 4000us", True, "4000 µs", "connect.p50 was 4000 µs; the limit is >= 4000 µs."),
        ("connect.count == 1", True, "1", "connect.count was 1; the limit is == 1."),
        ("session.errors == 0", False, "9", "session.errors was 9; the limit is == 0."),
        ("session.errors < 1%", True, "0.892%", "session.errors was 0.892%; the limit is < 1%."),
        ("push.errors <= 100%", True, "100%", "push.errors was 100%; the limit is <= 100%."),
        ("session.late <= 3", True, "3", "session.late was 3; the limit is <= 3."),
        ("session.late < 0.1%", False, "0.297%", "session.late was 0.297%; the limit is < 0.1%."),
        ("session.dropped < 1000", True, "991", "session.dropped was 991; the limit is < 1000."),
        ("session.dropped < 50%", True, "49.5%", "session.dropped was 49.5%; the limit is < 50%."),
        ("session.count >= 1009", True, "1009", "session.count was 1009; the limit is >= 1009."),
        ("session.rate >= 100/s", True, "101/s", "session.rate was 101/s; the limit is >= 100/s."),
        ("session.rate < 100", False, "101", "session.rate was 101; the limit is < 100."),
    ],
)
def test_a_limit_is_judged(text, ok, found, sentence):
    assert verdict(text) == LimitVerdict(text, ok, found, sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("enroll.p99 < 1s", "enroll never ran; the limit is enroll.p99 < 1 s."),
        ("enroll.p99 > 1s", "enroll never ran; the limit is enroll.p99 > 1 s."),
        ("enroll.errors == 0", "enroll never ran; the limit is enroll.errors == 0."),
        ("enroll.errors < 1%", "enroll never ran; the limit is enroll.errors < 1%."),
        ("enroll.rate < 5", "enroll never ran; the limit is enroll.rate < 5."),
        ("request.p99 < 1s", "request never ran; the limit is request.p99 < 1 s."),
        ("command.dropped < 5", "command never ran; the limit is command.dropped < 5."),
        ("push.p99 < 1s", "push never succeeded (10 failed); the limit is push.p99 < 1 s."),
    ],
)
def test_a_limit_on_what_never_ran_is_broken(text, sentence):
    assert verdict(text) == LimitVerdict(text, False, None, sentence)


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("enroll.count == 0", True),
        ("enroll.count < 1", True),
        ("enroll.count >= 1", False),
        ("connect.count > 1", False),
    ],
)
def test_a_limit_on_the_count_is_a_plain_number(text, ok):
    assert verdict(text).ok is ok


def test_a_share_is_exact():
    metrics = Metrics()
    for number in range(100):
        metrics(Exchange("push", 0, 0.0, 1.0, NO if number < 7 else None))
    assert judge(parse_limit("push.errors <= 7%"), metrics).ok
    assert judge(parse_limit("push.errors == 7%"), metrics).ok


@pytest.mark.parametrize(
    ("seconds", "found"), [(0.499_999, "499.999 ms"), (0.5, "500 ms"), (0.512_345, "512 ms"), (12.345_678, "12346 ms")]
)
def test_the_number_shown_has_as_many_figures_as_the_verdict_needs(seconds, found):
    metrics = Metrics()
    metrics(Exchange("push", 0, 0.0, seconds))
    shown = judge(parse_limit("push.max < 500ms"), metrics)
    assert (shown.found, shown.ok) == (found, seconds < 0.5)


@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=10),
    st.sampled_from(
        [("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge), ("==", operator.eq)]
    ),
    st.integers(1, 10**7),
)
def test_the_verdict_on_the_longest_is_the_comparison_of_it(micros, comparison, limit):
    sign, holds = comparison
    metrics = Metrics()
    for each in micros:
        metrics(Exchange("push", 0, 0.0, each / 1e6))
    judged = judge(parse_limit(f"push.max {sign} {limit / 1000:.3f}ms"), metrics)

    assert judged.ok == holds(max(micros), limit)
    assert holds(Fraction(judged.found.removesuffix(" ms")) * 1000, limit) == judged.ok


def test_what_never_ended_is_not_what_never_ran() -> None:
    metrics = Metrics()
    metrics.started("session")
    metrics(Exchange("push", 0, 0.0, 1.0, cut_short="the run was interrupted"))
    assert judge(parse_limit("session.p99 < 1s"), metrics).sentence.startswith("session never ended (1 cut short);")
    assert judge(parse_limit("push.errors == 0"), metrics).sentence.startswith("push never ended (1 cut short);")
    assert not judge(parse_limit("push.errors == 0"), metrics).ok


@pytest.mark.parametrize(
    ("text", "ok", "reliable"),
    [
        ("session.dropped <= 5%", False, False),
        ("session.dropped < 60%", True, True),  # without our delays it would be less
        ("session.dropped > 5%", False, False),  # and then this might fail
        ("session.errors < 5", False, True),
    ],
)
def test_what_an_overloaded_generator_dropped_is_not_the_servers(text: str, ok: bool, reliable: bool) -> None:
    found = judge(parse_limit(text), measured(), {"session"})
    assert (found.ok, found.reliable) == (ok, reliable)


@pytest.mark.parametrize(
    ("limit", "ok", "reliable"), [("== 0", False, False), ("<= 1%", False, False), ("<= 60%", True, True)]
)
def test_errors_that_our_own_gateway_caused_are_no_statement_about_the_server(limit, ok, reliable) -> None:
    metrics = Metrics()
    metrics(Exchange("push", 0, 0.0, 1.0))
    metrics(Exchange("push", 0, 0.0, 1.0, Failure("own_gateway", "ours")))
    judged = judge(parse_limit(f"push.errors {limit}"), metrics, {"push.errors"})
    assert (judged.ok, judged.reliable) == (ok, reliable)
    assert ("its own failures" in judged.sentence) == ok
    assert judge(parse_limit("push.errors == 1"), metrics).ok
    assert judge(parse_limit("push.errors == 1"), metrics, {"push"}).ok, "only the times of it are in doubt"
