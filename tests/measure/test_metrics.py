"""The metrics of recorded exchanges."""

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.measure.latencies import NO_LATENCIES, LatencySummary, bucket_of
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS, Exchange, Failure
from agent.measure.summaries import FailureSummary, OperationSummary, ReasonSummary, StageSummary

EPOCH = 1_700_000_000.0

failures = st.builds(Failure, st.sampled_from(["peer", "tls", "timeout"]), st.text(max_size=600))
exchanges = st.builds(
    Exchange,
    operation=st.sampled_from(OPERATIONS),
    device=st.integers(0, 1000),
    started=st.floats(EPOCH, EPOCH + 1e5),
    seconds=st.floats(0, 7200),
    failure=st.none() | failures,
)


def counted(*seen: Exchange) -> Metrics:
    metrics = Metrics()
    for exchange in seen:
        metrics(exchange)
    return metrics


def exchange(seconds=0.1, *, operation="command", started=EPOCH, failure=None) -> Exchange:
    return Exchange(operation, 0, started, seconds, failure)


def test_percentiles_of_a_known_distribution_are_within_a_thousandth():
    metrics = counted(*(exchange(ms / 1000) for ms in range(1, 1001)))

    summary = metrics.summary("command")

    assert summary.count == 1000
    assert summary.errors == 0
    assert summary.latency_ms.p50 == pytest.approx(500, rel=1e-3)
    assert summary.latency_ms.p90 == pytest.approx(900, rel=1e-3)
    assert summary.latency_ms.p95 == pytest.approx(950, rel=1e-3)
    assert summary.latency_ms.p99 == pytest.approx(990, rel=1e-3)
    assert summary.latency_ms.p99_9 == pytest.approx(999, rel=1e-3)
    assert summary.latency_ms.max == 1000.0
    assert summary.latency_ms.mean == pytest.approx(500.5)


def test_exchanges_of_the_user_channel_are_counted_and_merged():
    of_user = Exchange("command", 0, EPOCH, 0.1, None, facts={"channel": "user"})
    metrics = counted(exchange(), of_user)
    metrics.merge(counted(of_user).snapshot())
    older = counted(exchange()).snapshot()
    del older["operations"]["command"]["user_channel"]
    metrics.merge(older)
    assert (metrics.summary("command").count, metrics.summary("command").user_channel) == (4, 2)


def test_one_exchange_is_every_percentile_and_has_no_rate():
    metrics = counted(exchange(0.25))
    assert metrics.summary("command") == OperationSummary(
        started=1,
        count=1,
        errors=0,
        late=0,
        dropped=0,
        rate_per_s=0.0,
        latency_ms=LatencySummary(*[250.0] * 7),
        clamped=0,
        histogram=metrics.summary("command").histogram,
    )


def test_the_rate_runs_from_the_first_start_to_the_last_end_in_any_order():
    metrics = counted(
        exchange(1.0, started=EPOCH + 9.0),
        exchange(4.0, started=EPOCH),
        exchange(0.5, started=EPOCH + 5.0, failure=Failure("peer", "no")),
        exchange(100.0, operation="push", started=EPOCH),
    )
    assert metrics.summary("command").rate_per_s == pytest.approx(3 / 10.0)


def test_exchanges_that_took_no_time_at_one_moment_have_no_rate():
    assert counted(exchange(0.0), exchange(0.0)).summary("command").rate_per_s == 0.0


def test_a_failed_exchange_is_counted_but_not_timed():
    summary = counted(exchange(0.01), exchange(30.0, failure=Failure("timeout", "late"))).summary("command")

    assert (summary.count, summary.errors) == (2, 1)
    assert summary.latency_ms.max == 10.0


def test_where_all_failed_there_are_no_latencies():
    summary = counted(exchange(failure=Failure("peer", "no"))).summary("command")
    assert (
        summary.latency_ms.p50,
        summary.latency_ms.p90,
        summary.latency_ms.p95,
        summary.latency_ms.p99,
        summary.latency_ms.p99_9,
    ) == (None,) * 5
    assert (summary.latency_ms.max, summary.latency_ms.mean) == (None, None)


def test_an_operation_that_did_not_occur_is_all_zeros():
    metrics = Metrics()
    assert metrics.operations() == []
    assert metrics.failures() == []
    assert metrics.summary("push").count == 0
    assert metrics.summary("push").latency_ms.p50 is None


@pytest.mark.parametrize(
    ("seconds", "recorded_ms", "clamped"),
    [
        (0.000_001, 0.001, 0),
        (3600.0, 3_600_000.0, 0),
        (0.0, 0.001, 1),
        (-1.0, 0.001, 1),
        (3600.1, 3_600_000.0, 1),
        (float("inf"), 3_600_000.0, 1),
        (float("nan"), 0.001, 1),
    ],
)
def test_latencies_beyond_the_range_are_recorded_at_its_limit_and_counted(seconds, recorded_ms, clamped):
    summary = counted(exchange(seconds)).summary("command")
    assert (summary.latency_ms.max, summary.latency_ms.p50, summary.clamped) == (recorded_ms, recorded_ms, clamped)


def test_an_unknown_operation_is_misuse_and_is_not_counted():
    metrics = Metrics()
    with pytest.raises(MisuseError, match="'reboot'"):
        metrics(exchange(operation="reboot"))
    with pytest.raises(MisuseError, match="'reboot'"):
        metrics.summary("reboot")
    assert metrics.operations() == []


def test_operations_come_in_the_order_of_the_record_not_of_arrival():
    metrics = counted(*(exchange(operation=name) for name in ("return", "push", "enroll", "lom_link", "enroll")))
    assert metrics.operations() == ["enroll", "lom_link", "push", "return"]


def test_failures_are_counted_by_operation_and_kind_with_the_example_that_was_due_first():
    metrics = counted(
        exchange(operation="push", failure=Failure("peer", "first push")),
        exchange(failure=Failure("tls", "second tls"), started=EPOCH + 1.0),
        exchange(failure=Failure("peer", "first peer")),
        exchange(failure=Failure("tls", "first tls")),
    )
    assert metrics.failures() == [
        FailureSummary("command", "tls", 2, "first tls"),
        FailureSummary("command", "peer", 1, "first peer"),
        FailureSummary("push", "peer", 1, "first push"),
    ]


@pytest.mark.parametrize("length", [499, 500])
def test_an_example_of_up_to_500_characters_is_kept_whole(length):
    [failure] = counted(exchange(failure=Failure("peer", "x" * length))).failures()
    assert failure.example == "x" * length


def test_an_example_is_text_that_can_be_sent_anywhere():
    [failure] = counted(exchange(failure=Failure("peer", "a \udc80 b"))).failures()
    assert failure.example == "a \\udc80 b"


def test_a_longer_example_is_shortened_to_500_and_says_so():
    [failure] = counted(exchange(failure=Failure("peer", "x" * 501))).failures()
    assert failure.example == "x" * 499 + "…"


@given(st.lists(exchanges, max_size=60))
def test_counts_add_up_and_percentiles_are_ordered(seen):
    metrics = counted(*seen)
    summaries = {name: metrics.summary(name) for name in metrics.operations()}

    assert sum(each.count for each in summaries.values()) == len(seen)
    assert sum(each.errors for each in summaries.values()) == sum(each.failure is not None for each in seen)
    for name, summary in summaries.items():
        assert sum(each.count for each in metrics.failures() if each.operation == name) == summary.errors
        timed = [each.seconds for each in seen if each.operation == name and each.failure is None]
        if not timed:
            assert summary.latency_ms.max is None
            continue
        lowest = min(max(min(timed), 1e-6), 3600.0) * 1000
        highest = min(max(max(timed), 1e-6), 3600.0) * 1000
        assert (
            summary.latency_ms.p50
            <= summary.latency_ms.p90
            <= summary.latency_ms.p95
            <= summary.latency_ms.p99
            <= summary.latency_ms.p99_9
            <= summary.latency_ms.max
        )
        assert summary.latency_ms.p50 >= lowest - 0.001
        assert summary.latency_ms.max == pytest.approx(highest, abs=0.001)
        assert lowest - 0.001 <= summary.latency_ms.mean <= summary.latency_ms.max * (1 + 1e-12)


# Stages, what was late and what was dropped


def test_a_stage_has_a_count_and_latencies():
    metrics = Metrics()
    metrics.stage("handshake", 0.25)
    metrics.stage("connect", 0.5)
    metrics.stage("connect", -1.0)

    assert metrics.stages() == ["connect", "handshake"]
    assert metrics.stage_summary("handshake") == StageSummary(
        count=1,
        latency_ms=LatencySummary(*[250.0] * 7),
        clamped=0,
        histogram=metrics.stage_summary("handshake").histogram,
    )
    assert (metrics.stage_summary("connect").count, metrics.stage_summary("connect").clamped) == (2, 1)
    assert (metrics.stage_summary("request").count, metrics.stage_summary("request").latency_ms) == (0, NO_LATENCIES)


def test_late_ones_ran_and_dropped_ones_did_not():
    metrics = counted(exchange(0.25))
    metrics.late("command")
    metrics.dropped("command", "the Mac was off")
    metrics.dropped("push", "the phase ended", 3)
    metrics.dropped("push", "the Mac was off")
    metrics.dropped("push", "the Mac was off")

    command, push = metrics.summary("command"), metrics.summary("push")
    assert (command.count, command.late, command.dropped) == (1, 1, 1)
    assert (push.count, push.late, push.dropped, push.rate_per_s, push.latency_ms.p50) == (0, 0, 5, 0.0, None)
    assert metrics.operations() == ["command", "push"]
    assert metrics.drops() == [
        ReasonSummary("push", "the phase ended", 3),
        ReasonSummary("push", "the Mac was off", 2),
        ReasonSummary("command", "the Mac was off", 1),
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda metrics: metrics.stage("session", 1.0),
        lambda metrics: metrics.stage_summary("session"),
        lambda metrics: metrics.late("connect"),
        lambda metrics: metrics.dropped("connect", "no"),
        lambda metrics: metrics.summary("connect"),
    ],
)
def test_what_is_no_operation_or_no_stage_is_misuse_and_is_not_counted(call):
    metrics = Metrics()
    with pytest.raises(MisuseError, match=r"found '(session|connect)'"):
        call(metrics)
    assert metrics.snapshot() == Metrics().snapshot()


def test_the_histogram_is_one_that_hdrhistogram_reads():
    metrics = counted(exchange(0.25), exchange(0.5), exchange(1.0))
    metrics.stage("connect", 0.01)

    histogram = HdrHistogram.decode(metrics.summary("command").histogram)
    assert histogram.get_total_count() == 3
    assert histogram.get_value_at_percentile(50.0) == pytest.approx(500_000, rel=1e-3)
    assert HdrHistogram.decode(metrics.stage_summary("connect").histogram).get_total_count() == 1


# One second


def test_a_second_has_what_ended_since_the_one_before():
    metrics = counted(exchange(0.1), exchange(0.1), exchange(0.9), exchange(failure=Failure("peer", "no")))
    metrics.stage("connect", 0.1)
    metrics.late("push")
    metrics.snapshot()

    assert metrics.take_second() == {
        "command": {"count": 4, "errors": 1, "latencies": {bucket_of(100_000): 2, bucket_of(899_584): 1}}
    }
    assert metrics.take_second() == {}
    metrics(exchange(failure=Failure("peer", "no")))
    assert metrics.take_second() == {"command": {"count": 1, "errors": 1, "latencies": {}}}
    assert metrics.summary("command").count == 5


def test_what_was_merged_belongs_to_no_second():
    metrics = counted(exchange(0.1))
    metrics.merge(counted(exchange(0.2), exchange(0.3)).snapshot())
    assert metrics.take_second() == {"command": {"count": 1, "errors": 0, "latencies": {bucket_of(100_000): 1}}}


@given(st.lists(exchanges, max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_the_seconds_add_up_to_the_whole(seen, cuts):
    metrics = Metrics()
    taken = []
    for position, each in enumerate(seen):
        metrics(each)
        if position in cuts:
            taken.append(metrics.take_second())
    taken.append(metrics.take_second())

    for name in metrics.operations():
        rows = [second[name] for second in taken if name in second]
        summary = metrics.summary(name)
        assert sum(row["count"] for row in rows) == summary.count
        assert sum(row["errors"] for row in rows) == summary.errors
        assert sum(sum(row["latencies"].values()) for row in rows) == summary.count - summary.errors
