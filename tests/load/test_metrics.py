"""What metrics say of the exchanges that they were told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.load.metrics import FailureSummary, Metrics, OperationSummary
from agent.net.records import OPERATIONS, Exchange, Failure

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
    assert summary.p50 == pytest.approx(500, rel=1e-3)
    assert summary.p90 == pytest.approx(900, rel=1e-3)
    assert summary.p99 == pytest.approx(990, rel=1e-3)
    assert summary.p99_9 == pytest.approx(999, rel=1e-3)
    assert summary.max == 1000.0
    assert summary.mean == pytest.approx(500.5)


def test_one_exchange_is_every_percentile_and_has_no_rate():
    assert counted(exchange(0.25)).summary("command") == OperationSummary(
        count=1, errors=0, rate_per_s=0.0, p50=250.0, p90=250.0, p99=250.0, p99_9=250.0, max=250.0, mean=250.0
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
    assert summary.max == 10.0


def test_where_all_failed_there_are_no_latencies():
    summary = counted(exchange(failure=Failure("peer", "no"))).summary("command")
    assert (summary.p50, summary.p90, summary.p99, summary.p99_9, summary.max, summary.mean) == (None,) * 6


def test_an_operation_that_did_not_occur_is_all_zeros():
    metrics = Metrics()
    assert metrics.operations() == []
    assert metrics.failures() == []
    assert metrics.summary("push").count == 0
    assert metrics.summary("push").p50 is None


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
    assert (summary.max, summary.p50, summary.clamped) == (recorded_ms, recorded_ms, clamped)


def test_an_unknown_operation_is_misuse_and_is_not_counted():
    metrics = Metrics()
    with pytest.raises(MisuseError, match="'reboot'"):
        metrics(exchange(operation="reboot"))
    with pytest.raises(MisuseError, match="'reboot'"):
        metrics.summary("reboot")
    assert metrics.operations() == []


def test_operations_come_in_the_order_of_the_record_not_of_arrival():
    metrics = counted(*(exchange(operation=name) for name in ("push", "enroll", "lom_link", "enroll")))
    assert metrics.operations() == ["enroll", "lom_link", "push"]


def test_failures_are_counted_by_operation_and_kind_with_their_first_example():
    metrics = counted(
        exchange(operation="push", failure=Failure("peer", "first push")),
        exchange(failure=Failure("tls", "first tls")),
        exchange(failure=Failure("peer", "first peer")),
        exchange(failure=Failure("tls", "second tls")),
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
            assert summary.max is None
            continue
        lowest = min(max(min(timed), 1e-6), 3600.0) * 1000
        highest = min(max(max(timed), 1e-6), 3600.0) * 1000
        assert summary.p50 <= summary.p90 <= summary.p99 <= summary.p99_9 <= summary.max
        assert summary.p50 >= lowest - 0.001
        assert summary.max == pytest.approx(highest, abs=0.001)
        assert lowest - 0.001 <= summary.mean <= summary.max * (1 + 1e-12)
