"""Latencies are counted in the same buckets as HdrHistogram's, with the same percentiles."""

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OperatorError
from agent.measure.latencies import (
    HIGHEST_US,
    LARGEST,
    NO_LATENCIES,
    Latencies,
    bucket_of,
    decoded,
    index_of,
    middle_ms,
    percentile_ms,
)

micros = st.integers(1, HIGHEST_US) | st.integers(0, 31).map(lambda power: 2**power)


def recorded(values):
    latencies = Latencies()
    for value in values:
        latencies.record(value / 1e6)
    return latencies


def by_the_library(values):
    histogram = HdrHistogram(1, HIGHEST_US, 3)
    for value in values:
        histogram.record_value(value)
    return histogram


@given(micros)
def test_the_index_is_hdrhistograms(value):
    assert index_of(value) == HdrHistogram(1, HIGHEST_US, 3).get_counts_array_index(value)


@given(st.lists(micros, max_size=50))
def test_the_encoding_and_the_percentiles_are_hdrhistograms(values):
    latencies, library = recorded(values), by_the_library(values)

    assert latencies.encoded() == library.encode().decode()
    assert decoded(latencies.encoded()) == list(library.counts)
    assert latencies.count == len(values)
    summary = latencies.summary()
    if not values:
        assert summary == NO_LATENCIES
        return
    for percent, found in ((50, summary.p50), (90, summary.p90), (95, summary.p95), (99, summary.p99)):
        assert found == min(library.get_value_at_percentile(percent), max(values)) / 1000
    assert summary.max == max(values) / 1000
    assert summary.mean == pytest.approx(sum(values) / len(values) / 1000)


@given(st.lists(micros, max_size=50))
def test_what_was_encoded_comes_back_within_a_thousandth(values):
    latencies = recorded(values)
    back = Latencies.of(latencies.encoded())

    assert back.encoded() == latencies.encoded()
    assert back.count == latencies.count
    if values:
        assert back.summary().p99 == pytest.approx(latencies.summary().p99, rel=1e-3)
        assert back.summary().max == pytest.approx(latencies.summary().max, rel=1e-3)
        assert back.summary().mean == pytest.approx(latencies.summary().mean, rel=1e-3)


def test_what_is_no_histogram_is_the_operators_error():
    with pytest.raises(OperatorError, match="HdrHistogram"):
        Latencies.of("AAAAAAAAAAAAAAAAAAAAAAAA")


# Buckets


@given(micros)
def test_a_bucket_is_five_per_cent_wide(value):
    bucket = bucket_of(value)
    assert 0 <= bucket <= LARGEST
    assert middle_ms(bucket) == pytest.approx(value / 1000, rel=0.025)


def test_the_largest_bucket_is_the_one_of_an_hour():
    assert bucket_of(HIGHEST_US) == LARGEST


@given(st.lists(micros, min_size=1, max_size=50), st.sampled_from([50.0, 99.0]))
def test_a_percentile_of_buckets_is_near_the_exact_one(values, percent):
    buckets = {}
    for value in values:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + 1
    exact = by_the_library(values).get_value_at_percentile(percent)
    assert percentile_ms(buckets, percent) == pytest.approx(exact / 1000, rel=0.03)


def test_nothing_has_no_percentile():
    assert percentile_ms({}, 50.0) is None
