"""The curve of latencies, and how sure a percentile is."""

from __future__ import annotations

import random

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OperatorError
from agent.report.percentiles import DEVIATIONS, Distribution, enough

MICROS = st.lists(st.integers(1, 3_600_000_000), max_size=200)


def encoded(micros: list[int]) -> str:
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for each in micros:
        histogram.record_value(each)
    text: str = histogram.encode().decode()
    return text


@given(MICROS)
def test_percentile_curve_is_monotonic(micros: list[int]) -> None:
    curve = Distribution(encoded(micros)).curve()
    assert curve == sorted(curve)
    assert [point.seconds for point in curve] == sorted(point.seconds for point in curve)
    if micros:
        assert curve[0] == (1.0, pytest.approx(min(micros) / 1e6, rel=0.001, abs=1e-6))
        assert curve[-1] == (len(micros), pytest.approx(max(micros) / 1e6, rel=0.001, abs=1e-6))
    else:
        assert curve == []


@given(MICROS.filter(bool))
def test_curve_points_equal_the_histograms_percentiles(micros: list[int]) -> None:
    histogram = HdrHistogram.decode(encoded(micros))
    for x, seconds in Distribution(encoded(micros)).curve()[1:-1]:
        quantile = 100 * (1 - 1 / x)
        assert seconds * 1e6 == pytest.approx(histogram.get_value_at_percentile(quantile), rel=0.002, abs=2)


def test_number_of_curve_points_is_limited() -> None:
    dice = random.Random(1)
    curve = Distribution(encoded([round(dice.lognormvariate(9, 1)) for _ in range(20_000)])).curve()
    assert 100 < len(curve) < 400


def test_confidence_interval_covers_the_true_percentile() -> None:
    dice = random.Random(5)
    held = 0
    for _ in range(300):
        drawn = [round(1e6 * dice.expovariate(1.0)) + 1 for _ in range(400)]
        spread = Distribution(encoded(drawn)).spread(0.9)
        assert spread is not None
        held += spread.low <= 2.3026 <= spread.high  # the 90th percentile of that distribution: ln 10
    assert DEVIATIONS == 2.0  # so: about 95 of 100
    assert 0.93 < held / 300 < 0.98


@pytest.mark.parametrize(("count", "share"), [(0, 0.5), (3, 0.5), (100, 0.999), (100, 0.99)])
def test_too_few_latencies_have_no_confidence_interval(count: int, share: float) -> None:
    assert Distribution(encoded([1000] * count)).spread(share) is None


@pytest.mark.parametrize(("count", "share", "is_enough"), [(1000, 0.99, True), (999, 0.99, False), (20, 0.5, True)])
def test_ten_latencies_beyond_a_percentile_are_enough(count: int, share: float, is_enough: bool) -> None:
    assert enough(count, share) is is_enough


def test_invalid_histogram_raises_operator_error() -> None:
    with pytest.raises(OperatorError, match="histogram"):
        Distribution("nothing of the kind")
