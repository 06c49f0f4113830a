"""Latencies are counted in the same buckets as HdrHistogram's, with the same percentiles."""

import base64
import struct
import zlib

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OperatorError
from agent.measure.histograms import HIGHEST_US, LOWEST_US, decoded, encoded, highest_at, index_of, lowest_at
from agent.measure.latencies import (
    LARGEST,
    NO_LATENCIES,
    Latencies,
    bucket_of,
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
    library, index = HdrHistogram(1, HIGHEST_US, 3), index_of(value)
    assert index == library.get_counts_array_index(value)
    assert lowest_at(index) == library.get_value_from_index(index)
    assert highest_at(index) == library.get_highest_equivalent_value(value)


@given(st.lists(micros, max_size=50))
def test_the_encoding_and_the_percentiles_are_hdrhistograms(values):
    latencies, library = recorded(values), by_the_library(values)

    assert latencies.encoded() == library.encode().decode()
    assert decoded(latencies.encoded()) == {index: count for index, count in enumerate(library.counts) if count}
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


@given(st.dictionaries(micros.map(index_of), st.integers(1, 2**40) | st.integers(1, 300), max_size=30))
def test_counts_of_any_size_are_read_by_the_library(counts):
    library = HdrHistogram.decode(encoded(counts))
    assert {index: count for index, count in enumerate(library.counts) if count} == counts
    if sum(counts.values()) <= 2**40:
        assert decoded(encoded(counts)) == counts


@given(st.binary(max_size=40))
def test_any_numbers_are_counts_or_the_operators_error(numbers):
    settings = len(numbers), 0, 3, LOWEST_US, HIGHEST_US, 1.0
    compressed = zlib.compress(struct.pack(">IIIIQQd", 0x1C849313, *settings) + numbers)
    text = base64.b64encode(struct.pack(">II", 0x1C849314, len(compressed)) + compressed).decode()
    try:
        counts = decoded(text)
    except OperatorError:
        return
    assert list(counts) == sorted(counts)
    assert decoded(encoded(counts)) == counts
    assert HdrHistogram.decode(text).get_total_count() == sum(counts.values())


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
