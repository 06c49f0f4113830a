"""The time line as points: short enough to draw, and nothing looks better than it was."""

from __future__ import annotations

from typing import Any

import documents
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.measure.timeline import Second, SecondOfOperation
from agent.report.html.series import MOST_POINTS, interval, series

LATENCIES = st.none() | st.floats(0.001, 1e6)


def second(t: int, operations: dict[str, SecondOfOperation] | None = None) -> Second:
    return Second(t=t, operations=operations or {}, macs={}, connections=0, pushes_waiting=0, lag_ms=None, cpu=None)


@st.composite
def seconds_of_an_operation(draw: st.DrawFn) -> SecondOfOperation:
    count = draw(st.integers(0, 1000))
    return SecondOfOperation(count, draw(st.integers(0, count)), draw(LATENCIES), draw(LATENCIES))


@st.composite
def time_lines(draw: st.DrawFn) -> list[Second]:
    """Rows in any order, with gaps."""
    times = draw(st.lists(st.integers(0, 400), unique=True, min_size=1, max_size=40))
    return [
        Second(
            t,
            {"session": draw(seconds_of_an_operation())},
            {"idle": draw(st.integers(0, 50)), "off": draw(st.integers(0, 50))},
            draw(st.integers(0, 100)),
            draw(st.integers(0, 100)),
            draw(LATENCIES),
            draw(st.floats(0, 1)),
        )
        for t in times
    ]


def rows_of(timeline: list[Second], width: int, point: int) -> list[Second]:
    return [row for row in timeline if row.t // width == point]


@given(st.integers(0, 10**7), st.integers(1, 3000))
def test_number_of_points_is_limited(seconds: int, most: int) -> None:
    assert -(-seconds // interval(seconds, most)) <= most


@pytest.mark.parametrize(("hours", "width"), [(0.2, 1), (0.4, 1), (0.5, 2), (4, 10), (24, 60), (48, 120)])
def test_interval_divides_a_minute_or_hour(hours: float, width: int) -> None:
    assert interval(round(hours * 3600)) == width


@examples(25, explored=50)
@given(time_lines(), st.integers(1, 50))
def test_counts_are_preserved(timeline: list[Second], most: int) -> None:
    found = series(timeline, most)
    for name, of in (("per_s", lambda row: row.count), ("errors_per_s", lambda row: row.errors)):
        rates = getattr(found.operations["session"], name)
        counts = [(rate or 0.0) * len(rows_of(timeline, found.width, point)) for point, rate in enumerate(rates)]
        assert sum(counts) == pytest.approx(sum(of(row.operations["session"]) for row in timeline))


@examples(25, explored=50)
@given(time_lines(), st.integers(1, 50))
def test_worst_second_is_kept(timeline: list[Second], most: int) -> None:
    found = series(timeline, most)
    p99 = [row.operations["session"].p99_ms for row in timeline if row.operations["session"].p99_ms is not None]
    shown = [point for point in found.operations["session"].p99 if point is not None]
    assert max(shown, default=None) == (max(p99) / 1000 if p99 else None)
    assert max(point for point in found.cpu if point is not None) == max(row.cpu for row in timeline)
    lags = [row.lag_ms for row in timeline if row.lag_ms is not None]
    assert max((point for point in found.lag if point is not None), default=None) == (
        max(lags) / 1000 if lags else None
    )


@examples(25, explored=50)
@given(time_lines(), st.integers(1, 50))
def test_median_p50_is_a_measured_one(timeline: list[Second], most: int) -> None:
    found = series(timeline, most)
    for point, p50 in enumerate(found.operations["session"].p50):
        there = [row.operations["session"].p50_ms for row in rows_of(timeline, found.width, point)]
        known = [ms / 1000 for ms in there if ms is not None]
        assert p50 in known if known else p50 is None


@examples(25, explored=50)
@given(time_lines(), st.integers(1, 50))
def test_states_of_an_interval_add_up_to_the_fleet(timeline: list[Second], most: int) -> None:
    found = series(timeline, most)
    for point in range(found.length):
        fleets = [sum(row.macs.values()) for row in rows_of(timeline, found.width, point)]
        shown = [points[point] for points in found.macs.values()]
        if fleets:
            assert sum(shown) == pytest.approx(sum(fleets) / len(fleets))
        else:
            assert shown == [None] * len(shown)


def test_seconds_are_weighted_by_their_operations() -> None:
    timeline = [
        second(0, {"session": SecondOfOperation(100, 0, 10.0, 20.0)}),
        second(1, {"session": SecondOfOperation(3, 0, 900.0, 950.0)}),
    ]
    assert series(timeline, 1).operations["session"].p50 == [0.010]
    assert series(timeline, 1).operations["session"].p99 == [0.950]


def test_unreported_second_is_a_gap() -> None:
    found = series([second(0, {"session": SecondOfOperation(4, 0, None, None)}), second(2)])
    assert found.operations["session"].per_s == [4, None, 0]
    assert found.cpu == [None, None, None]


def test_spike_of_one_second_is_visible_in_a_long_run() -> None:
    document: Any = documents.hours()
    rows = [
        second(row["t"], {"session": SecondOfOperation(**row["operations"]["session"])}) for row in document["timeline"]
    ]
    found = series(rows)
    assert found.length <= MOST_POINTS
    assert found.operations["session"].p99[777] == 4.0
    assert found.operations["session"].per_s[123] == 10.0  # of nine seconds that were reported


def test_empty_time_line_has_no_points() -> None:
    found = series([])
    assert (found.length, found.seconds, found.operations) == (0, 0, {})
